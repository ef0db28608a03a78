"""Two routes in the shapes that bots already read: Binance's and Bybit's insurance funds.

What either shape has no place for is left out. Errors are problem documents as everywhere here:
bots go by the status.
"""

from __future__ import annotations

import time
from typing import Any, Final

from starlette.responses import Response

from insurance_fund.projections.fund_queries import query_fund_names
from insurance_fund.projections.http.funds import answer_tagged
from insurance_fund.projections.http.parameters import identifier
from insurance_fund.projections.http.problems import ProblemError
from insurance_fund.projections.http.routes import Call, Route, json_response
from insurance_fund.projections.http.schemas import AMOUNT, TEXT, TIME_MS, fields, listed
from insurance_fund.projections.queries import Reading, Values

_DIGITS: Final[dict[str, Any]] = {"type": "string", "pattern": "^[0-9]+$"}


async def _binance(call: Call) -> Response:
    symbol = call.values["symbol"]

    def query(reading: Reading) -> Any:
        pools = [
            {
                "symbols": fund["symbols"],
                "assets": [
                    {
                        "asset": fund["margin_currency"],
                        "marginBalance": fund["total"],
                        "updateTime": fund["now_ms"],
                    }
                ],
            }
            for fund in query_fund_names(reading)
        ]
        if symbol is None:
            return pools
        for pool in pools:
            if symbol in pool["symbols"]:
                return pool
        raise ProblemError(
            "not-found", f"there is no symbol {symbol}; leave symbol out, or see /v1/instruments"
        )

    return await answer_tagged(call, query)


async def _bybit(call: Call) -> Response:
    coin = call.values["coin"]

    def query(reading: Reading) -> tuple[list[Values], int]:
        funds = query_fund_names(reading)
        updated_ms = max((at.now_ms for at in reading.positions.values()), default=0)
        return [fund for fund in funds if coin in (None, fund["margin_currency"])], updated_ms

    funds, updated_ms = await call.services.views.read(query)
    listed_funds = [
        {
            "coin": fund["margin_currency"],
            "symbols": ",".join(fund["symbols"]),
            "balance": fund["total"],
            # In USD, which nobody here knows: not known is never told as 0.
            "value": "",
        }
        for fund in funds
    ]
    return json_response(
        {
            "retCode": 0,
            "retMsg": "OK",
            "result": {"updatedTime": str(updated_ms), "list": listed_funds},
            "retExtInfo": {},
            "time": time.time_ns() // 1_000_000,
        }
    )


_POOL: Final = fields(
    symbols=listed(TEXT),
    assets=listed(fields(asset=TEXT, marginBalance=AMOUNT, updateTime=TIME_MS)),
)

ROUTES: Final = (
    Route(
        "/fapi/v1/insuranceBalance",
        "binance_insurance_balance",
        "As Binance's: a list of pools, or the pool of a symbol. `marginBalance` is available and "
        "reserved together.",
        _binance,
        {"anyOf": [listed(_POOL), _POOL]},
        (identifier("symbol", "The instrument whose pool to tell."),),
        problems=(404,),
        tagged=True,
    ),
    Route(
        "/v5/market/insurance",
        "bybit_market_insurance",
        "As Bybit's: `balance` is available and reserved together; `value`, which is in USD, is "
        "not known here and empty.",
        _bybit,
        fields(
            retCode={"type": "integer"},
            retMsg=TEXT,
            result=fields(
                updatedTime=_DIGITS,
                list=listed(fields(coin=TEXT, symbols=TEXT, balance=AMOUNT, value=TEXT)),
            ),
            retExtInfo={"type": "object"},
            time=TIME_MS,
        ),
        (identifier("coin", "Only the fund of this margin currency."),),
    ),
)
