"""Rights on a secured cluster, for which aiokafka's admin client has requests but no methods."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import CreateAclsRequest, DeleteAclsRequest, DescribeAclsRequest

from tests.kafka.ready import admin_of, until

Resource = Literal["topic", "group", "cluster", "transactional_id"]
Operation = Literal[
    "all", "read", "write", "create", "delete", "alter", "describe", "describe_configs"
]

_RESOURCES: Final[dict[Resource, int]] = {
    "topic": 2,
    "group": 3,
    "cluster": 4,
    "transactional_id": 5,
}
_OPERATIONS: Final[dict[Operation, int]] = {
    "all": 2,
    "read": 3,
    "write": 4,
    "create": 5,
    "delete": 6,
    "alter": 7,
    "describe": 8,
    "describe_configs": 10,
}
_LITERAL: Final = 3
_PREFIXED: Final = 4
_ALLOW: Final = 3


@dataclass(frozen=True, slots=True)
class Acl:
    """A right of a user: an operation on the resource of a name, or on all that begin with it.

    The one resource of kind "cluster" is named "kafka-cluster".
    """

    user: str
    resource: Resource
    name: str
    operation: Operation
    prefixed: bool = False

    def _fields(self) -> tuple[int, str, int, str, str, int, int]:
        pattern = _PREFIXED if self.prefixed else _LITERAL
        operation = _OPERATIONS[self.operation]
        user = f"User:{self.user}"
        return (_RESOURCES[self.resource], self.name, pattern, user, "*", operation, _ALLOW)


async def grant(bootstrap: str, *acls: Acl, timeout_s: float = 10) -> None:
    """Gives rights and waits until the broker knows of them.

    Raises RuntimeError if the cluster refuses, TimeoutError after the time given.
    """
    async with asyncio.timeout(timeout_s), admin_of(bootstrap) as admin:
        for acl in acls:
            answer = await admin._send_to_controller(CreateAclsRequest(*acl._fields()))
            _check(acl, answer.creation_responses[0])
        for acl in acls:
            await until(partial(_is_known, admin, acl, True))


async def revoke(bootstrap: str, *acls: Acl, timeout_s: float = 10) -> None:
    """Takes rights away and waits until the broker knows; raises like grant."""
    async with asyncio.timeout(timeout_s), admin_of(bootstrap) as admin:
        for acl in acls:
            answer = await admin._send_to_controller(DeleteAclsRequest(*acl._fields()))
            _check(acl, answer.filter_responses[0])
        for acl in acls:
            await until(partial(_is_known, admin, acl, False))


async def _is_known(admin: AIOKafkaAdminClient, acl: Acl, wanted: bool) -> bool:
    """Asks the broker's own authorizer, which learns a little later what the controller decided."""
    answer = await admin._send_request(DescribeAclsRequest(*acl._fields()))
    _check(acl, (answer.error_code, answer.error_message))
    return bool(answer.resources) == wanted


def _check(acl: Acl, answer: tuple[Any, ...]) -> None:
    if answer[0] != 0:
        raise RuntimeError(f"{acl}: error {answer[0]}: {answer[1]}")
