"""Which processes train together: --hosts and what launchers put into the environment."""

import socket

import pytest

from medcolor_tf.errors import InputError
from medcolor_tf.parallel import hosts
from medcolor_tf.parallel.hosts import Cluster

KUBERNETES = {
    "JOB_COMPLETION_INDEX": "1",
    "MEDCOLOR_PROCESSES": "2",
    "MEDCOLOR_COORDINATOR": "train-0.train:9000",
}


def here_is(*names):
    return lambda host: host in names


@pytest.mark.parametrize(
    ("listed", "number", "here", "expected"),
    [
        ((), -1, (), Cluster(None, 1, 0)),
        (("a",), -1, ("a",), Cluster("a:9476", 1, 0)),
        (("a", "b"), -1, ("b",), Cluster("a:9476", 2, 1)),
        (("a:77", "b", "c:77"), -1, ("a",), Cluster("a:77", 3, 0)),
        (("[fe80::1]:77", "[fe80::2]"), -1, ("[fe80::2]",), Cluster("[fe80::1]:77", 2, 1)),
    ],
)
def test_a_list_of_hosts(listed, number, here, expected):
    assert hosts.find_cluster(listed, number, {}, here_is(*here)) == expected


@pytest.mark.parametrize(
    ("listed", "number", "here", "message"),
    [
        (("a", "b"), -1, (), r"--hosts=a,b: none of them is this machine .*--host_number=0 to 1"),
        (("a", "a"), -1, ("a",), "2 of them are this machine"),
        (("a", "b"), 2, (), "--host_number=2: expected 0 to 1 for the 2 hosts of --hosts=a,b"),
        ((), 1, (), "--host_number=1 needs --hosts"),
        (("a:77", "b:78"), 0, (), "b:78 has another port than a:77"),
        (("a:77777", "b"), 0, (), "expected host or host:port .* received 'a:77777'"),
        (("a", "fe80::2"), 0, (), "IPv6 address in brackets.* received 'fe80::2'"),
        (("auto", "b"), -1, (), "--hosts=auto reads everything from the environment"),
        (("auto",), 0, (), "received --hosts=auto --host_number=0"),
    ],
)
def test_a_list_of_hosts_that_says_nothing(listed, number, here, message):
    with pytest.raises(InputError, match=message):
        hosts.find_cluster(listed, number, {}, here_is(*here))


@pytest.mark.parametrize(
    ("listed", "number", "visible", "expected"),
    [
        (("a", "b"), 1, None, None),
        (("a", "a"), 1, None, 1),
        (("a", "b", "a", "b"), 2, None, 1),
        (("a", "a"), 1, "4,5", 1),
        (("a", "a"), 1, "5", None),  # each was given one of its own
    ],
)
def test_processes_of_one_machine_take_a_gpu_each(listed, number, visible, expected):
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert hosts.find_cluster(listed, number, environment).local_device_ids == expected


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Cluster()),  # all of it is JAX' to find
        ({"MEDCOLOR_COORDINATOR": "gpu008-ib"}, Cluster("gpu008-ib:9476")),
        (KUBERNETES, Cluster("train-0.train:9000", 2, 1)),
        (KUBERNETES | {"MEDCOLOR_PROCESS": "0"}, Cluster("train-0.train:9000", 2, 0)),
        (
            {"MEDCOLOR_PROCESS": "0", "MEDCOLOR_PROCESSES": "2", "MEDCOLOR_COORDINATOR": "[::1]"},
            Cluster("[::1]:9476", 2, 0),
        ),
    ],
)
def test_the_environment(environment, expected):
    assert hosts.find_cluster(("auto",), -1, environment) == expected


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (KUBERNETES | {"MEDCOLOR_PROCESS": "-1"}, "MEDCOLOR_PROCESS=-1: expected a whole number"),
        (KUBERNETES | {"MEDCOLOR_PROCESSES": "two"}, "MEDCOLOR_PROCESSES=two: expected a whole"),
        (KUBERNETES | {"MEDCOLOR_COORDINATOR": "a b"}, "MEDCOLOR_COORDINATOR=a b: expected host"),
    ],
)
def test_an_environment_that_cannot_be(environment, message):
    with pytest.raises(InputError, match=message):
        hosts.find_cluster(("auto",), -1, environment)


def test_own_addresses_are_known():
    assert hosts.is_this_machine("127.0.0.1")
    assert hosts.is_this_machine(socket.gethostname())
    assert not hosts.is_this_machine("192.0.2.1"), "an address that documentation reserves"
    assert not hosts.is_this_machine("no-such-host.invalid")
