//! SQLite: migrations, load and commit.
