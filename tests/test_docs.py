from docs.__main__ import PAGE, page


def test_the_page_of_parts_is_what_the_code_says() -> None:
    assert PAGE.read_text() == page(), "run python -m docs"


def test_every_part_is_tested_and_every_recipe_named() -> None:
    for line in page().splitlines():
        if line.startswith("| `") and line.count("|") == 5:
            assert not line.endswith("| - |"), line
