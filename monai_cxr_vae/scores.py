"""The table of scores: what each joins, and what every place that tells of one says of it."""

from __future__ import annotations

from dataclasses import dataclass

# What is measured of a film, and a score's part in words (at most 64 characters, DICOM's LO). The last two are what a
# critic says, in the order of its logits.
ASPECTS = {
    "residual": "the reconstruction misses much of the film",
    "local": "the reconstruction misses one place",
    "latent": "the latent values are unusual",
    "exposure": "the exposure is unusual",
    "texture": "the sharpness or the noise is unusual",
    "fault": "the critic saw a fault of the film",
    "finding": "the critic saw a finding",
}


@dataclass(frozen=True)
class Score:
    """One score of films.

    Attributes:
        measures: what it measures, to be read after "how".
        with_critic, without_critic: the aspects that it joins, and what they weigh. Chosen on synthetic faults and
            findings in validation films and on normal films of other sites. A critic has learnt which differences of
            technique do not matter; residual, exposure and texture alarm at all of them, and would spoil what it says.
        soft_maximum: whether they are joined by a soft maximum, where one is enough, or by their mean, where it shows a
            little in many ways.
        of_places: whether a report tells it of each unusual place, or of the whole film.
    """

    measures: str
    with_critic: dict[str, float]
    without_critic: dict[str, float]
    soft_maximum: bool
    of_places: bool

    def weights(self, critic: bool) -> dict[str, float]:
        """What the aspects weigh, with a critic or without."""
        return self.with_critic if critic else self.without_critic


# Names of columns, of codes in Structured Reports and of the calibrations in weights files.
SCORES = {
    "quality": Score(
        measures="unlike a proper frontal chest film this is",
        with_critic={"latent": 0.7, "fault": 1.5},
        without_critic={"residual": 1.0, "latent": 1.0, "exposure": 1.0, "texture": 1.0},
        soft_maximum=True,
        of_places=False,
    ),
    "anomaly": Score(
        measures="unlike a normal frontal chest film this is",
        with_critic={"finding": 1.0},
        without_critic={"local": 0.1, "latent": 0.1},
        soft_maximum=False,
        of_places=True,
    ),
}

# What a film's row tells of its scores.
COLUMNS = {
    column: meaning
    for name, score in SCORES.items()
    for column, meaning in (
        (name, f"Score: how {score.measures}. No unit; larger is less usual."),
        (f"{name}_p", "Its conformal p-value."),
        (f"{name}_part", "The aspect that contributed most."),
    )
}
