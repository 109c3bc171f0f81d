# book: the pages   test: everything that is checked   notebooks: the readers' copies   serve: the pages, on a local port
# PYTHON chooses the interpreter of the virtual environment (3.11 to 3.13): make book PYTHON=python3.12
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.installed
PORT ?= 8000
export JUPYTER_PLATFORM_DIRS := 1
export TQDM_DISABLE := 1

.PHONY: book test notebooks serve lint clean

book: $(READY)  ## Every page, executed, into _build/html
	rm -rf _build/.doctrees
	$(BIN)/jupyter-book build book --config "$(CURDIR)/_config.yml" --toc "$(CURDIR)/_toc.yml" --path-output . -W -n --keep-going

# Lint and the book side by side, then as many tests at once as there are cores, one thread each. The notebooks take
# longest: they come first, and the many short tests, handed out one by one, keep every core busy.
test: $(READY)  ## Lint, the built book, every test, every doctest, every notebook as a reader first opens it
	$(MAKE) -j2 lint book
	$(BIN)/pytest -n logical --maxschedchunk 1 --nbmake --nbmake-timeout=900 notebooks fmtutor tests

notebooks: $(READY)  ## The readers' notebooks, generated from the chapters
	$(BIN)/python book/_ext/make_notebooks.py

serve: book  ## The pages on http://localhost:8000
	$(BIN)/python -m http.server --directory _build/html $(PORT)

lint: $(READY)  ## Style, types, floors, and that the notebooks are what their chapters say
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python book/_ext/make_notebooks.py --check

clean:  ## What was built; the virtual environment stays
	rm -rf _build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

# torch first and exactly, so that no other package's range can bring in a second build of several gigabytes.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[book,test]"
	touch $(READY)
