"""A prompt is rendered whole or not at all, and reaches nothing but its variables."""

from __future__ import annotations

import pickle

import pytest

from mlflow_agent_plugin.errors import PromptError
from mlflow_agent_plugin.package import Prompt


@pytest.mark.parametrize("template", ["", "  \n\t"])
def test_an_empty_prompt_is_refused(template):
    with pytest.raises(PromptError, match="empty"):
        Prompt("system", template)


@pytest.mark.parametrize(
    ("template", "line"),
    [
        ("a\n{{ b", 2),
        ("{% if x %}", 1),
        ("a\n\n{% for %}{% endfor %}", 3),
        ("{{ a | nofilter }}", 1),
    ],
)
def test_a_malformed_template_names_its_line(template, line):
    with pytest.raises(PromptError) as caught:
        Prompt("system", template, path="p.md")
    assert str(caught.value).startswith(f"p.md:{line}: ")


@pytest.mark.parametrize(
    "template",
    [
        "{% include 'x' %}",
        "{% extends 'x' %}",
        "{% import 'x' as y %}",
        "{% from 'x' import y %}",
        "{% if a %}{% include a %}{% endif %}",
    ],
)
def test_a_prompt_cannot_load_other_templates(template):
    with pytest.raises(PromptError, match="cannot load other templates"):
        Prompt("system", template)


def test_variables_are_those_the_template_does_not_set_itself():
    prompt = Prompt("p", "{% set a = 1 %}{{ a }}{{ b.c }}{% for d in e %}{{ d }}{% endfor %}")
    assert prompt.variables == {"b", "e"}


def test_a_missing_variable_is_named_with_its_line():
    prompt = Prompt("p", "Hi\n{{ one }}\n{{ two }}\n", path="p.md")
    with pytest.raises(PromptError) as caught:
        prompt.render(one=1)
    assert str(caught.value).startswith("p.md:3: prompt `p` uses `two`, which is not provided")


def test_a_missing_variable_on_a_branch_not_taken_is_missing_all_the_same():
    with pytest.raises(PromptError, match="`hidden`"):
        Prompt("p", "{% if a %}{{ hidden }}{% endif %}").render(a=False)


def test_a_missing_attribute_is_an_error_and_not_a_hole():
    with pytest.raises(PromptError, match=r"p\.md:2: .*cannot be rendered.*age"):
        Prompt("p", "Hi\n{{ user.age }}", path="p.md").render(user={"name": "a"})


@pytest.mark.parametrize(
    "template",
    [
        "{{ x.__class__.__mro__ }}",
        "{{ x.__init__.__globals__ }}",
        "{{ ''.__class__ }}",
        "{{ x|attr('__class__') }}",
        "{{ '{0.__class__}'.format(x) }}",
        "{{ items.append(x) }}",
        "{{ range(10000000)|list }}",
    ],
)
def test_a_template_cannot_leave_its_sandbox(template):
    prompt = Prompt("p", template)
    with pytest.raises(PromptError):
        prompt.render(x=object(), items=[])


def test_values_are_text_and_never_templates():
    prompt = Prompt("p", "{{ a }}")
    assert prompt.render(a="{{ 7 * 7 }} <b> {% endraw %}") == "{{ 7 * 7 }} <b> {% endraw %}"


def test_unused_values_are_ignored_and_line_feeds_kept():
    assert Prompt("p", "{% if a %}\nyes\n{% endif %}\n").render(a=1, b=2) == "yes\n"


def test_a_prompt_survives_pickling():
    prompt = Prompt("p", "{{ a }}")
    prompt.render(a=1)
    assert pickle.loads(pickle.dumps(prompt)).render(a=2) == "2"
