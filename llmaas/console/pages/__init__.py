"""The console's pages: one file per group, thin: ask services, build a view, render a template. How: docs/console.md."""
