"""Places of secrets, and neighbours of them, that ``planted_more`` has none of.

``§`` stands for a secret: in lists of arguments, source, XML, forms, tables, files and statements.
"""

#: Names of secrets.
KEYS = """
    authentication userpass bindpw psk wpa_psk saml_response SAMLResponse client_assertion
    code_verifier dsn fernet_key device_code kms_key_material unlock_key id_token_hint
    ldapBindPw PSK samlResponse codeVerifier clientAssertion database_dsn fernetKey unseal_key
    cipherKey pem_key securityAnswer secret_string SecretString httpauth pgpass mysqlpass
    X_RAPIDAPI_KEY COSMOS_KEY recovery_key SERVICE_ROLE_KEY two_factor_code ccNumber
    cardnum social_security presharedKey hasło şifre salasana lösenord adgangskode 密碼
    비밀번호 暗証番号
""".split()  # noqa: SIM905 - read as words

#: Texts with a secret.
TEXTS = (
    '["mysql", "--password", "§"]',
    "['mysql', '--password', '§', 'shop']",
    "('mysql', '-u', 'root', '--password', '§')",
    "['curl', '--user', 'bob:§', 'https://x']",
    "Command '['mysql', '--password', '§']' returned non-zero exit status 1.",
    "Command '['mysql', '-u', 'root', '-p§', 'shop']' returned non-zero exit status 1.",
    "-Dx.password=§ -jar app.jar",
    '["docker","login","-u","bob","-p","§"]',
    "['sshpass', '-p', '§', 'ssh', 'h']",
    "['redis-cli', '-a', '§']",
    "argv: ['--api-key', '§']",
    'CMD ["app", "--token", "§"]',
    "subprocess.run(['vault', 'login', '-token', '§'])",
    'cmd=["--secret","§"]',
    "executing: mysqldump, --password, §, shop",
    "args: --username, bob, --password, §",
    "obj['password'] = '§'",
    'config["api_key"] = "§"',
    'set_password("§")',
    "user.set_password('§')",
    "os.environ['DB_PASSWORD'] = '§'",
    "cfg['db']['password']='§'",
    (
        "password\n  String should have at least 12 characters [type=string_too_"
        "short, input_value='§', input_type=str]"
    ),
    (
        "1 validation error for Login\npassword\n  Value error, too weak [type=va"
        "lue_error, input_value='§', input_type=str]\n    For further informatio"
        "n visit https://errors.pydantic.dev/2.5/v/value_error"
    ),
    (
        "1 validation error for Settings\ndb.password\n  Input should be a valid "
        "integer [type=int_parsing, input_value='§', input_type=str]"
    ),
    (
        "[{'type': 'string_too_short', 'loc': ('body', 'password'), 'msg': 'Str"
        "ing should have at least 8 characters', 'input': '§', 'ctx': {'min_len"
        "gth': 8}}]"
    ),
    (
        '{"detail":[{"type":"string_too_short","loc":["body","password"],"msg":'
        '"String should have at least 8 characters","input":"§"}]}'
    ),
    "password: str = '§'",
    "password: Optional[str] = '§'",
    "SecretStr('§')",
    "<ns:password>§</ns:password>",
    '<wsse:Password Type="http://docs.oasis-open.org/wss#PasswordText">§</wsse:Password>',
    "<soap:Body><tns:apiKey>§</tns:apiKey></soap:Body>",
    '<property name="hibernate.connection.password">§</property>',
    '<entry key="db.password">§</entry>',
    '<string name="api_key">§</string>',
    "<key>password</key><string>§</string>",
    '<setting name="ApiKey" serializeAs="String"><value>§</value></setting>',
    "&lt;password&gt;§&lt;/password&gt;",
    "<samlp:Response>x</samlp:Response> SAMLResponse=§",
    "\x1b[36mpassword\x1b[0m=\x1b[35m§\x1b[0m",
    "[\x1b[32minfo\x1b[0m] \x1b[1mlogin\x1b[0m \x1b[36mapi_key\x1b[0m=\x1b[35m§\x1b[0m",
    "\x1b[33mpassword:\x1b[0m §",
    "\x1b[1mtoken\x1b[22m: \x1b[32m'§'\x1b[39m",
    "{ \x1b[34mpassword\x1b[0m: \x1b[32m'§'\x1b[0m }",
    '--b\r\nContent-Disposition: form-data; name="password"\r\n\r\n§\r\n--b--',
    'Content-Disposition: form-data; name="api_key"\\r\\n\\r\\n§\\r\\n--b--',
    'Content-Disposition: form-data; name="secret"\nContent-Type: text/plain\n\n§\n--b',
    "machine api.example.com login bob password §",
    "machine h\n  login bob\n  password §\n",
    "default login anonymous password §",
    "| password | § |",
    "| name     | value |\n|----------|-------|\n| api_key  | § |",
    "password    §\nuser        bob",
    "  DB_PASSWORD      §",
    "+----------+\n| password | § |\n+----------+",
    "│ password │ § │",
    "password\t§",
    "user\tbob\npassword\t§",
    "localhost:5432:shop:bob:§",
    "db.example.com:5432:*:postgres:§",
    "alter user u with password '§'",
    "INSERT INTO users (name, password) VALUES ('a','§')",
    "INSERT INTO users (password, name) VALUES ('§', 'a')",
    "insert into t (id, api_key) values (1, '§')",
    "ALTER USER 'root'@'localhost' IDENTIFIED WITH mysql_native_password BY '§'",
    "create user u identified by '§'",
    'INSERT INTO "users" ("email", "password", "age") VALUES (\'a@b.c\', \'§\', 5) RETURNING id',
    "WHERE password LIKE '§'",
    "connect to bob:§@tcp(db:3306)/shop",
    "SENTRY_DSN=https://§123@o1.ingest.sentry.io/5",
    "CONFIG SET requirepass §",
    "EnvVar{Name:DB_PASSWORD,Value:§,ValueFrom:nil,}",
    '  ~ password = "old" -> "§"',
    "aws configure set aws_secret_access_key §",
    "npm config set //r/:_authToken §",
    "npm config set _auth §",
    "twine upload -u __token__ -p §",
    "userPassword:: §",
    "ERR AUTH failed: requirepass=§",
    '1700000000.1 [0 127.0.0.1:1] "AUTH" "§"',
    '"AUTH" "default" "§"',
    "grant_type=authorization_code&code=§1234&client_id=x&client_secret=§",
    "code_verifier=§&grant_type=x",
    "client_assertion_type=x&client_assertion=§",
    "SAMLResponse=§&RelayState=x",
    "RelayState=x&SAMLRequest=§",
    "the password is '§'",
    "temporary password '§'",
    'using password "§"',
    "7za a -p§ x.7z",
    "-client-secret=§",
    "gradle -PsigningPassword=§",
    "userPassword: {SSHA}§",
    "the password is: §",
    "password for bob is '§'",
    "git config user.token §",
    "API key §1Aa is invalid",
    "unzip -P § x.zip",
    '{"url":"https:\\/\\/bob:§@shop.de\\/a"}',
    '{"url":"https://shop.de/?token\\u003d§\\u0026a\\u003d1"}',
    "[SQL: INSERT INTO users (name, password) VALUES (?, ?)]\n[parameters: ('bob', '§')]",
    "[SQL: UPDATE users SET n=?, password=? WHERE id = ?]\n[parameters: (1, '§', 4)]",
    "SELECT 1 FROM u WHERE name = %s AND password = %s; args=('bob', '§')",
    "INSERT INTO u (name, password) VALUES ($1, $2) params: ['bob', '§']",
    'http.Header{"Authorization":[]string{"Basic §"}, "Accept":[]string{"*/*"}}',
    "Config{token=Secret{value=§}, n=1}",
    'array(1) {\n  ["password"]=>\n  string(12) "§"\n}',
    "Array\n(\n    [user] => bob\n    [password] => §\n)",
    'a:1:{s:8:"password";s:12:"§";}',
    "Map(user -> bob, password -> §)",
    '  + password                = "§"',
    "SET [password] = N'§'",
    "password += §",
    "A temporary password is generated for root@localhost: §",
    "[sudo] password for bob: 9f8e7d6c§",
    "the password was set to '§'",
    "Invalid API key provided: §.",
    "Unseal Key 1: §",
    "pass word: §",
    "security answer: §",
    "X-Twilio-Signature: §",
    "Authorization: Splunk §",
    "curl -u bob:12345678§ https://x",
    "https://maps.example.com/json?address=x&key=0a1b2c3d4e5f§",
    "password=<&§>",
    "New API token created: §",
    "password of bob: §",
)

#: Schemes of an authorization header, in the case that they are written in; what follows them, each
#: of which is all that a header's value has; and where such a header stands.
SCHEMES = """
    token key secret apikey session cookie auth basic digest hmac credential Token Key Secret ssws
""".split()  # noqa: SIM905 - read as words
CREDENTIALS = """
    6c7bef548098abecb214d248e5fd36066aba8294 6C7BEF548098ABECB214D248E5FD3606 6c7bef548098abecb214
    9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d k3jd9fhw72nsbqp0xz4m 9381726354019283 pqlrmvxkwjzhtgnbsdfc
    v1.6c7bef548098abecb214d248e5fd3606 swordfish9 1000.8a7f6e5d4c.f00dfeed1234
""".split()  # noqa: SIM905 - read as words
HEADERS = (
    "Authorization: §",
    "Proxy-Authorization: §",
    "authorization: §, accept: a",
    "> authorization: §",
    "authorization=§",
    "POST / HTTP/1.1\r\nAuthorization:§\r\nHost: a",
    "GET / HTTP/1.1\\r\\nauthorization: §\\r\\n",
    "{'Authorization': '§', 'a': 'b'}",
    '{"headers": "{\\"Authorization\\": \\"§\\"}"}',
    '["curl","-H","Authorization: §"]',
    "curl -H 'Authorization: §' https://x",
)
#: Of other headers and names: only what looks like a credential is known as one.
NAMED = (
    "X-Auth-Token: token §",
    "X-Api-Key: key §",
    "token: session §",
    'api_key: "key §"',
    "using api key § now",
    "login with token § failed",
    "authorization: token § for user 42 may not",
)

#: What passwords are hashed to.
HASHES = (
    f"$2b$12${'aB3dE' * 10}xyz",
    f"$6$salt1234${'aB3dE' * 17}/",
    f"$argon2id$v=19$m=65536,t=3,p=4$c2FsdHNhbHQ${'aB3dE' * 8}",
    f"pbkdf2_sha256$600000$c2FsdA${'aB3dE' * 8}xyz=",
    f"{{SSHA}}{'aB3dE' * 6}==",
)

#: Fields with a secret.
VALUES = (
    ("process.command_args", ("mysql", "--password", "§", 5)),
    ("argv", ["curl", "-u", "user:§"]),
    ("argv", ["mysql", "-p§"]),
    ("argv", ["docker", "login", "-p", "§"]),
    ("argv", ["java", "-Ddb.password=§"]),
    ("pair", {"Key": "password", "Value": "§"}),
    ("pair", {"NAME": "password", "VALUE": "§"}),
    ("pair", {"field": "api_key", "val": "§"}),
    ("pair", {"k": "token", "v": "§"}),
    ("pair", {"ParameterKey": "DBPassword", "ParameterValue": "§"}),
    ("pair", {"attribute": "userPassword", "values": ["§"]}),
    ("pair", {"property": "password", "newValue": "§", "oldValue": "§"}),
    ("errors", [{"type": "a", "loc": ("body", "password"), "msg": "m", "input": "§"}]),
    ("password", {"type": "string", "default": "§"}),
    ("password", ["is too short", "§"]),
)

#: Names of what is no secret.
NEIGHBOUR_KEYS = """
    next_page_token nextPageToken pageToken eos_token bosToken pad_token stop_token unk_token
    mask_token sync_token continuationToken cursor_token CancellationToken idempotency_token
    api_key_prefix otp_channel secret_rotation test_pass pass_through psk_identity session.id
    test_auth.py login_token.js compass underpass bypass_ms
""".split()  # noqa: SIM905 - read as words

#: Fields without one.
NEIGHBOUR_VALUES = (
    ("properties", {"password": {"type": "string", "minLength": 8}}),
    ("errors", {"password": ["This field is required."]}),
    ("error", {"loc": ("password",), "type": "missing", "input": {"name": "bob"}}),
    ("field", {"name": "password", "type": "string"}),
    ("tag", {"Key": "Name", "Value": "web"}),
    ("argv", ["ssh", "-p", "2222", "h"]),
    ("argv", ["git", "commit", "-m", "reset password"]),
    ("session", "active"),
    ("mfa", "enabled"),
    ("input_tokens", [12, 13]),
    ("tokens", {"prompt": 1200, "completion": 5}),
    ("sessions", {"active": 4, "idle": None}),
    ("auth", {"enabled": True}),
    ("environ", {"PWD": "/srv/app"}),
)

#: Texts without one.
NEIGHBOUR_TEXTS = (
    "def f(password=None, token=None):",
    "    return login(user=user, password=password)",
    "login(username=username, password=password, otp=otp)",
    "token=token, secret=secret",
    "client = Client(api_key=api_key)",
    'password=os.getenv("DB_PASSWORD")',
    "password = get_password()",
    'token = response.json()["access_token"]',
    "token = generate_token(user)",
    "session=active",
    "session=closed",
    "session = requests.Session()",
    "session = Session(engine)",
    "tests/test_auth.py::test_x[password] PASSED",
    "tests/test_auth.py::test_login[token-expired] FAILED",
    "session.id: page 3",
    "next_page_token=abc",
    "nextPageToken=CAUQAA",
    '"nextPageToken": "CAUQAA"',
    "page_token=CAUQAA",
    "continuation_token=abc",
    "pad_token='[PAD]'",
    "sep_token=[SEP] mask_token=[MASK] cls_token=[CLS]",
    '{"password": {"type": "string"}}',
    (
        '{"type": "object", "properties": {"password": {"type": "string", "minL'
        'ength": 8}}, "required": ["password"]}'
    ),
    '{"token": {"type": "string", "description": "the token"}}',
    "auth=HTTPBasicAuth(username, password)",
    "auth=BearerAuth(token)",
    'token = request.headers.get("X-Token")',
    "https://example.com/?next_page_token=abc",
    "SELECT * FROM users WHERE password = $1",
    "UPDATE users SET password = $1, token = $2 WHERE id = $3",
    "UPDATE users SET password = :password",
    "password = (sensitive value)",
    "  + password = (known after apply)",
    "  + password   = (sensitive value)",
    "db_password = var.db_password",
    "password = var.password",
    "password = random_password.db.result",
    "password = data.aws_secretsmanager_secret_version.db.secret_string",
    "token = ${var.token}",
    "'password': fields.CharField(max_length=128)",
    "password = models.CharField(max_length=128)",
    "password = Column(String(128), nullable=False)",
    "self.token = token",
    "self._session = session",
    "this.token = token;",
    "const token = await getToken();",
    "let password = document.getElementById('password').value",
    "password => hash(password)",
    "tokens = text.split()",
    "token = tokens[0]",
    "credentials=include",
    "credentials: same-origin",
    '"password": ["This field may not be blank."]',
    "{'password': ['This field is required.']}",
    '{"errors": {"password": ["is too short"]}}',
    "usage: app [--password PASSWORD] [--token TOKEN]",
    "  --password PASSWORD   the password",
    "mfa=enabled",
    "auth0=enabled",
    "oauth2=google",
    "INSERT INTO users (name, password) VALUES (?, :password)",
    "INSERT INTO users (name, password) VALUES ('bob', ''), ('eve', '***')",
    "\x1b[36mauthor\x1b[0m=\x1b[35mbob\x1b[0m",
    "lat 37.7749295122419",
    "arn:aws:secretsmanager:eu-west-1:123456789012:secret:db-prod-AbCdEf",
    "tls.key: /etc/tls/tls.key",
    "random_password.db: Creating...",
    "PRIMARY_KEY=id CACHE_KEY=user:42",
    "PWD=/home/bob OLDPWD=/tmp",
    "--- PASS: TestLogin (0.00s)",
    'Successfully pulled image "shop/auth:v1.2.3" in 3s',
    "Unable to find image 'auth:latest' locally",
    "proxied to http://auth:3000/x",
    '"jwt-decode": "^3.1.2", "csrf": "3.1.0"',
    "Collecting token-utils==1.2.3",
    "at async login (file:///app/session.mjs:3:1)",
    "auth-7d9c6b5f4d-x2x9q   1/1     Running   0          5d",
    "auth   ClusterIP  10.96.0.1  <none>  80/TCP  5d",
    "phone=+4915112345678",
    "sk-learn-pipeline-2024-build",
    "token_type=bearer expires_in=3600",
    "function auth(req: Request, token: string): Promise<void>",
    "fn verify(token: &str) -> Option<u8>",
    "random_password.db: Creation complete after 0s",
    "data.aws_secretsmanager_secret.db: Read complete after 1s",
    "password = (sensitive)",
    "PasswordAuthentication no",
    "ssh -o PasswordAuthentication=no h",
    "references non-existent secret key: tls.crt",
    "WARNING! Using --password via the CLI is insecure.",
    "--token TEXT  Token for the API",
    "if user.password == hashed:",
    "password = kwargs.pop('password', None)",
    'token = jwt.encode(payload, key, algorithm="HS256")',
    "password = params[:password]",
    "$password = $_POST['password'];",
    "password: !Ref DBPassword",
    "boarding pass: A12",
    "unexpected token: EOF",
    "output_tokens=[12, 13]",
    "tokens: ['the', 'cat']",
    '{"token": ["Invalid token."]}',
    'resources: ["secrets", "tokens"]',
    "otp: sms, mfa=required, pin=left",
    "scope=token:read",
    "password -> hash -> store",
    "https:\\/\\/shop.de\\/a \\u0026 b",
    "SELECT * FROM tokens WHERE id = ? [parameters: ('a1',)]",
    "auth: user 42 logged in",
    "session: websocket opened",
    "token: refresh in 300 s",
    "token: session expired",
    "token: key rotation done",
    "authorization: user 42 may not",
    "authorization: user 42",
    "authorization: token refresh",
    "authorization: token missing",
    "authorization: session started",
    "authorization: access denied",
    "authorization: basic auth",
    "authorization: request 12345678",
    "authorization: policy check took 12 ms",
    "authorization=enabled user=u12345678",
    "session: key user:42:profile missed",
    "auth: token v2.1.0 rejected",
    "auth: basic http://host:8080/x failed",
    "cache key 0123456789abcdef0123456789abcdef missed",
    "Auth: token cache size 12",
    "auth:test: ready",
    'Get "https://auth:8443/token": x509: certificate signed by unknown authority',
    "password: size must be between 8 and 20",
    "tokens: 1,024",
)
