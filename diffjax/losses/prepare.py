"""What happens to a whole batch before its losses, by name: what `config.prepare` may say."""

from diffjax.losses.importance import importance
from diffjax.losses.learned import learned
from diffjax.losses.pairing import pairing
from diffjax.losses.reward import reward
from diffjax.losses.transport import optimal_transport
from diffjax.types import Schedule

__all__ = ["importance", "learned", "nothing", "optimal_transport", "pairing", "reward"]


def nothing(schedule: Schedule) -> None:
    """Prepares nothing: every example draws its own time and noise."""
