"""`python -m insurance_fund` is `insurance-fund`."""

from insurance_fund.cli import main

main()
