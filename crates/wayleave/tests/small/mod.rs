//! A small installation of Headscale, as a source.

/// As much of a database of Headscale 0.26 as it takes: a user, a router, a route that is approved and one that is not, a policy.
pub const SMALL: &str = r#"
    CREATE TABLE migrations (id text PRIMARY KEY);
    INSERT INTO migrations VALUES ('202502131714'), ('202505141324');
    CREATE TABLE users (id integer PRIMARY KEY AUTOINCREMENT, name text, display_name text, email text,
        provider_identifier text, provider text, profile_pic_url text, created_at datetime, updated_at datetime,
        deleted_at datetime);
    INSERT INTO users (id, name, created_at) VALUES (3, 'anna', '2025-01-01 00:00:00+00:00');
    CREATE TABLE pre_auth_keys (id integer PRIMARY KEY AUTOINCREMENT, key text, user_id integer, reusable numeric,
        ephemeral numeric, used numeric, tags text, created_at datetime, expiration datetime);
    CREATE TABLE api_keys (id integer PRIMARY KEY AUTOINCREMENT, prefix text, hash blob, created_at datetime,
        expiration datetime, last_seen datetime);
    CREATE TABLE nodes (id integer PRIMARY KEY AUTOINCREMENT, machine_key text, node_key text, disco_key text,
        endpoints text, host_info text, ipv4 text, ipv6 text, hostname text, given_name varchar(63), user_id integer,
        register_method text, forced_tags text, auth_key_id integer, last_seen datetime, expiry datetime,
        approved_routes text, created_at datetime, updated_at datetime, deleted_at datetime);
    INSERT INTO nodes (id, machine_key, node_key, host_info, ipv4, hostname, given_name, user_id, register_method,
        approved_routes, created_at)
    VALUES (7, 'mkey:1111111111111111111111111111111111111111111111111111111111111111',
        'nodekey:2222222222222222222222222222222222222222222222222222222222222222',
        '{"RoutableIPs":["10.1.0.0/24","10.2.0.0/24"]}', '100.64.0.7', 'router', 'router', 3, 'cli', '["10.1.0.0/24"]',
        '2025-01-01 00:00:00+00:00');
    CREATE TABLE policies (id integer PRIMARY KEY AUTOINCREMENT, data text, created_at datetime, updated_at datetime,
        deleted_at datetime);
    INSERT INTO policies (data, created_at) VALUES ('{"acls": [{"action": "accept", "src": ["anna@"], "dst": ["*:*"]}],
        "autoApprovers": {"routes": {"10.2.0.0/16": ["anna@"]}}}', '2025-01-02 00:00:00+00:00');
"#;

/// The key that clients of that installation know their server by.
pub const NOISE_KEY: &str = "privkey:40ab1b58e9076c7a4d9d07291f5edf9d1aa017eb949624ba683317f48a640369";
