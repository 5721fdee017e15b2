//! What one viewer sees, its delta, and its encoding.
