//! Policy file to compiled policy, and its answers.
