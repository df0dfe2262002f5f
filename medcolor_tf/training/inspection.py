"""What TensorBoard shows of how a model computes, on request: its graph, and a profile of steps."""

from dataclasses import dataclass

from medcolor_tf.errors import InputError


@dataclass(frozen=True)
class Inspection:
    """What a run shows beside its results; it changes none of them and is not recorded.

    Attributes:
        graph: whether the model's graph is written.
        profiled: steps (first, last) of the run, counted from 1, that are profiled; () for none.
    """

    graph: bool = False
    profiled: tuple[int, ...] = ()

    @classmethod
    def parse(cls, graph: bool, profile_steps: str) -> "Inspection":
        """Reads --profile_steps: "20:30" or "20".

        Raises:
            InputError: anything else.
        """
        if not profile_steps:
            return cls(graph)
        first, colon, last = profile_steps.partition(":")
        last = last if colon else first
        if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
            raise InputError(
                f"--profile_steps={profile_steps}: expected FIRST:LAST steps of the run, as 20:30"
            )
        return cls(graph, (int(first), int(last)))

    def check(self) -> None:
        """Raises InputError where the backend cannot show it."""
        if not self.graph and not self.profiled:
            return
        import keras

        backend = keras.backend.backend()
        if backend != "tensorflow":
            flag = "--log_graph" if self.graph else "--profile_steps"
            raise InputError(f"{flag} needs KERAS_BACKEND=tensorflow, this is {backend}")


NO_INSPECTION = Inspection()
