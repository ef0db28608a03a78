"""How a node is run by the Java of this machine."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from tests.kafka.jars import BROKER_FOLDER

OLDEST_JAVA: Final = 17

# C1 alone and the serial collector start quickest; a node lives in 192 MB, and one that runs out
# of them dies like a killed one instead of limping.
JVM_OPTIONS: Final = (
    "-Xms64m",
    "-Xmx192m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:-UsePerfData",
    "-Djava.awt.headless=true",
)


@dataclass(frozen=True, slots=True)
class JavaRuntime:
    """Runs Kafka's classes from a class path, with an archive of loaded classes if there is one."""

    java: str
    classes: str
    archive: Path | None = None
    recorded_to: Path | None = None

    def server(self, properties: Path) -> list[str]:
        """Returns the command of a node, which is the JVM itself."""
        return [*self._jvm(properties.with_suffix(".log")), "kafka.Kafka", str(properties)]

    def storage_tool(self, folder: Path, arguments: list[str]) -> list[str]:
        """Returns the command of kafka-storage.sh."""
        tool = "kafka.tools.StorageTool"
        return [*replace(self, recorded_to=None)._jvm(folder / "format.log"), tool, *arguments]

    def send(
        self, process: subprocess.Popen[bytes], properties: Path, number: signal.Signals
    ) -> None:
        """Sends a signal to the node."""
        process.send_signal(number)

    def _jvm(self, log: Path) -> list[str]:
        logging = BROKER_FOLDER / "log4j2.properties"
        archive = [f"-XX:SharedArchiveFile={self.archive}"] if self.archive else []
        record = [f"-XX:ArchiveClassesAtExit={self.recorded_to}"] if self.recorded_to else []
        return [
            self.java,
            *JVM_OPTIONS,
            *archive,
            *record,
            f"-Dlog4j2.configurationFile={logging}",
            f"-Dinsurance.fund.log={log}",
            "-cp",
            self.classes,
        ]


def java_build(java: str) -> str | None:
    """Returns what a Java says of itself, or None if it does not run or is older than 17."""
    if shutil.which(java) is None:
        return None
    try:
        said = subprocess.run(
            [java, "-version"], capture_output=True, text=True, timeout=30, check=True
        ).stderr
    except (OSError, subprocess.SubprocessError):
        return None
    version = re.search(r'version "(\d+)', said)
    return said if version is not None and int(version.group(1)) >= OLDEST_JAVA else None
