"""What the supervisor says about a child that was ended, from the log that JAX 0.10 wrote."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from jaxconv.distributed.supervisor import _explain

HOSTS = ["tpu-a", "tpu-b", "tpu-c"]
FATAL = (
    "[Gloo] Rank 0 is connected to 2 peer ranks.\n"
    "E1127 13:31:18.908308   14829 coordination_service_agent.cc:289] Polled an error from coordination service.\n"
    "F1127 13:31:18.908434   14829 client.h:80] Terminating process because the JAX distributed service detected fatal "
    "errors. This most likely indicates that another task died. absl::Status: "
)
END = "\n*** Check failure stack trace: ***\n    @     0x7f2c61640634  absl::log_internal::LogMessage::SendToLog()\n"
UNHEALTHY = "UNAVAILABLE: The following tasks are unhealthy (stopped sending heartbeats):\n1\n2\nThe tasks have crashed."
CALL = "\nRPC: /xla.coordination.CoordinationService/"


@pytest.mark.parametrize(
    ("log", "hosts", "message"),
    [
        (f"{FATAL}{UNHEALTHY}{CALL}PollForError{END}", HOSTS, "process 1 on tpu-b, process 2 on tpu-c died or froze"),
        (f"{FATAL}{UNHEALTHY}{CALL}PollForError{END}", [], "process 1, process 2 died or froze"),
        (f"{FATAL}DEADLINE_EXCEEDED: Deadline Exceeded{CALL}Heartbeat{END}", HOSTS, "process 0 on tpu-a died or froze"),
        (f"{FATAL}UNAVAILABLE: Failed to send RPC to coordination service.{END}", HOSTS, "process 0 on tpu-a died or froze"),
        (f"{FATAL}DEADLINE_EXCEEDED: Deadline Exceeded{CALL}RegisterTask{END}", [], "not all processes came within 120"),
        (
            "E1127 13:44:43 add_port.cc:83] No address added",
            [],
            "was ended by SIGABRT. E1127 13:44:43 add_port.cc:83] No address",
        ),
        ("", [], "was ended by SIGABRT."),
    ],
)
def test_the_reason_is_read_from_the_log(log: str, hosts: list[str], message: str) -> None:
    """Lost processes are named with their hosts, if these are known; a log that is not understood is shown."""
    explanation = _explain(-signal.SIGABRT, log, hosts)
    assert message in explanation and "\n" not in explanation and "stack trace" not in explanation


def test_memory_is_suspected_after_sigkill() -> None:
    """SIGKILL is what the system sends when memory is short."""
    assert "SIGKILL. The system does so when memory is short." in _explain(-signal.SIGKILL, "", [])


def test_output_code_and_errors_pass_through() -> None:
    """What the child prints through Python arrives, with its exit code; what C code prints does not; a bug is shown."""
    program = (
        "import os, sys\nfrom jaxconv.distributed.supervisor import supervised\n"
        "def work():\n"
        "    os.write(1, b'noise'); os.write(2, b'noise'); print('result'); print('note', file=sys.stderr)\n"
        "    return 3 if len(sys.argv) == 1 else 1 // 0\n"
        "sys.exit(supervised(work))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "result\n", "note\n")
    ended = subprocess.run([sys.executable, "-c", program, "bug"], capture_output=True, text=True, check=False)
    assert ended.returncode == 1 and "ZeroDivisionError" in ended.stderr and "ended by exit code 1" in ended.stderr
