"""What is each prompt in each language? As the data have it, or translated."""

from collections.abc import Iterable

from mpo_jax.data.prompts.base import Prompt
from mpo_jax.recipes import sources, translation
from mpo_jax.recipes.base import Build, Dropped


def lacking(build: Build, language: str) -> Iterable[str]:
    """The dominant prompts that the data do not have in this language."""
    return [source.texts[build.dominant] for source in build.sources if language not in source.texts]


STAGE = translation.stage(lacking, "prompts")


def parallel(build: Build) -> tuple[dict[str, dict[str, str]], list[Dropped]]:
    """(language -> id -> prompt, the dominant language first; the prompts that could not be translated). Errors: a prompt that
    has not been translated yet."""
    found = {build.dominant: {source.id: source.texts[build.dominant] for source in build.sources}}
    dropped = []
    for language in build.languages:
        meaning = translation.translated(build, language, STAGE.name) if lacking(build, language) else None
        found[language] = {}
        for source in build.sources:
            text = source.texts.get(language)
            if text is None:
                assert meaning is not None, "something is lacking"
                said = meaning(source.texts[build.dominant])
                if said.error is not None:
                    dropped.append(Dropped(source.id, language, f"prompt: {said.error}"))
                    continue
                text = said.text
            found[language][source.id] = text
    return found, dropped


def prompts(build: Build) -> list[Prompt]:
    """All of `parallel`, to be asked."""
    return [prompt for language, texts in parallel(build)[0].items() for prompt in sources.prompts(texts, language)]
