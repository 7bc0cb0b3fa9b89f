"""More secrets and more neighbours than ``planted`` has: formats of issuers, programs and files.

A format is a text with places for chance: ``<A36>`` is 36 letters and digits, ``<H>`` hex
digits, ``<U>`` capitals and digits, ``<W>`` with ``-`` and ``_``, ``<B>`` of base64. ``§`` is a
secret by its place. The same ones each time.
"""

import base64
import json
import random
import re
import string
from collections.abc import Iterator

SECRET = "Kx9vTrombone"
_ALPHABETS = {
    "A": string.ascii_letters + string.digits,
    "H": "0123456789abcdef",
    "U": string.ascii_uppercase + string.digits,
    "W": string.ascii_letters + string.digits + "-_",
    "B": string.ascii_letters + string.digits + "+/",
}
_PLACE = re.compile("<([AHUWB])([0-9]+)>")


def filled(form: str, chance: random.Random) -> str:
    """Return *form* with its places filled by chance, each with a digit in the middle."""

    def fill(found: re.Match[str]) -> str:
        drawn = chance.choices(_ALPHABETS[found[1]], k=int(found[2]))
        drawn[len(drawn) // 2] = chance.choice(string.digits)
        return "".join(drawn)

    return _PLACE.sub(fill, form)


#: What issuers give, where it may stand alone.
TOKENS = (
    "FwoGZXIvYXdzE<B120>",
    "AKIA<U16>",
    "AIza<W35>",
    "1//0<W60>",
    "ya29.<W90>",
    "GOCSPX-<W28>",
    "<A3>8Q~<W34>",
    "<B86>==",
    "npm_<A36>",
    "pypi-AgEIcHlwaS5vcmcC<W80>",
    "SG.<W22>.<W43>",
    "key-<H32>",
    "SK<H32>",
    "1234567890:AA<W33>",
    "MTA<A23>.G<W5>.<W38>",
    "ghp_<A36>",
    "ghu_<A36>",
    "ghr_<A76>",
    "glpat-<W20>",
    "gldt-<W20>",
    "GR1348941<W20>",
    "xoxb-123456789012-1234567890123-<A24>",
    "xoxe.xoxp-1-<A160>",
    "xapp-1-A0<U9>-1234567890123-<H64>",
    "sk_live_<A99>",
    "rk_live_<A24>",
    "whsec_<A32>",
    "sk-proj-<W74>T3BlbkFJ<W74>",
    "sk-svcacct-<W60>",
    "sk-ant-api03-<W93>AA",
    "sk-or-v1-<H64>",
    "sk-lf-<H8>-<H4>-<H4>-<H4>-<H12>",
    "gsk_<A52>",
    "hf_<A34>",
    "r8_<A37>",
    "pplx-<A48>",
    "xai-<A80>",
    "dop_v1_<H64>",
    "hvs.<W90>",
    "hvb.<W130>",
    "s.<A24>",
    "<A14>.atlasv1.<W60>",
    "glsa_<A32>_<H8>",
    "glc_<A100>",
    "eyJrIjoi<A80>=",
    "lin_api_<A40>",
    "ntn_<A46>",
    "secret_<A43>",
    "figd_<W40>",
    "PMAK-<H24>-<H34>",
    "NRAK-<U27>",
    "NRII-<W32>",
    "sntryu_<H64>",
    "shpat_<H32>",
    "shpss_<H32>",
    "sq0atp-<W22>",
    "EAACEdEose0cBA<A80>",
    "dckr_pat_<W27>",
    "dckr_oat_<W32>",
    "dapi<H32>",
    "rubygems_<H48>",
    "HRKU-AA<W58>",
    "ATATT3xFfGF0<W180>",
    "ATCTT3xFfGN0<W170>",
    "ATBB<A28>",
    "pat<A14>.<H64>",
    "xkeysib-<H64>-<A16>",
    "xsmtpsib-<H64>-<A16>",
    "md-<W22>",
    "pul-<H40>",
    "fo1_<W43>",
    "fm2_<B200>",
    "sbp_<H40>",
    "sb_secret_<W31>",
    "pscale_tkn_<W43>",
    "pscale_pw_<W43>",
    "rnd_<A28>",
    "vcp_<A52>",
    "nfp_<A36>",
    "dp.pt.<A43>",
    "dp.st.prd.<A43>",
    "ops_eyJ<A200>",
    "A3-<U6>-<U6>-<U5>-<U5>-<U5>-<U5>",
    "sk.eyJ1Ijoi<A60>.<W22>",
    "rzp_live_<A14>",
    "access-sandbox-<H8>-<H4>-<H4>-<H4>-<H12>",
    "access_token$production$<A16>$<H32>",
    "tfp_<W44>_<A14>",
    "bkua_<H40>",
    "CCIPAT_<A22>_<H40>",
    "cio<A32>",
    "AKCp8<A68>",
    "essu_<A60>==",
    "snyk_uat.<A8>.<W40>",
    "sqp_<H40>",
    "squ_<H40>",
    "CFPAT-<W43>",
    "pnu_<A36>",
    "sdk-<H8>-<H4>-<H4>-<H4>-<H12>",
    "EZAK<A54>",
    "dt0c01.<U24>.<U64>",
    "pat.<A22>.<H24>.<A20>",
    "tskey-auth-<A17>CNTRL-<A32>",
    "t1.<W40>.<W86>",
    "LTAI<A20>",
    "AKID<A32>",
    "WPL_AP1.<A16>.<A6>==",
    "co_<A40>",
    "fw_<A24>",
    "csk-<A48>",
    "tvly-dev-<A32>",
    "lsv2_pt_<H32>_<H10>",
    "wandb_v1_<A60>",
    "pcsk_<A6>_<A60>",
    "nvapi-<W64>",
    "pa-<W43>",
)  # fmt: skip

#: Names of secrets.
KEYS = """
    USER_PASSWORD user-password UserPassword adminPwd rootpw smtpPassword emailPassword
    imap_pass ftp.password ldap-bind-password bindPassword keystorePassword trust_store_password
    sshPassphrase vaultToken VAULT_TOKEN npmToken NPM_TOKEN pypi_token gh_token slackToken
    SLACK_BOT_TOKEN telegram_bot_token discordToken twilioAuthToken TWILIO_AUTH_TOKEN
    sendgridApiKey mailgun_api_key stripeSecretKey STRIPE_SECRET openaiApiKey OPENAI_API_KEY
    anthropicApiKey googleApiKey GOOGLE_CLIENT_SECRET azureClientSecret AZURE_CLIENT_SECRET
    AZURE_STORAGE_KEY storageAccountKey awsSecretAccessKey aws_session_token SessionToken
    x-amz-security-token X-Amz-Security-Token x-vault-token X-Auth-Token X-Auth-Key
    X-Access-Token X-Refresh-Token X-Session-Token x-goog-api-key x-functions-key
    Ocp-Apim-Subscription-Key api-key APIKey api_secret apiSecret appSecret app_secret
    consumerSecret consumer_secret accessTokenSecret oauth_token oauth_token_secret id_token
    idToken refreshToken device_token push_token fcmToken _csrf xsrf-token authenticity_token
    sessionKey sessionToken session_secret cookieSecret jwtSecret JWT_SECRET signingSecret
    SLACK_SIGNING_SECRET webhook_secret hmacKey hmac_secret encryption_key EncryptionKey aesKey
    masterKey private-key PrivateKeyPem rsa_private_key sshPrivateKey ssh-private-key SECRET_KEY
    djangoSecretKey secretKeyBase FLASK_SECRET RAILS_MASTER_KEY gcpCredential googleCredentials
    serviceAccountKey dockerPassword docker_auth registryPassword dbPass db.pass
    databasePassword DATABASE_PASSWORD mysqlRootPassword MYSQL_ROOT_PASSWORD POSTGRES_PASSWORD
    redisPassword REDIS_PASS mongoPassword rabbitmq_default_pass elastic_password otpCode
    one_time_password oneTimeCode mfaToken totpSecret verification_code smsCode pinCode PIN CVC2
    card_cvv cvcCode card.number cardNumber iban ssn social_security_number socialSecurityNumber
    taxIdNumber recovery_code backupCodes mnemonic seedPhrase walletPrivateKey licenseKey
    license_key activationKey productKey subscriptionKey accountKey sharedAccessKey
    ConnectionStrings conn_string dsn_password basicAuth basic_auth_password proxyPassword
    proxy-authorization bearer authHeader auth_key authkey passwort mot_de_passe contrasena
     senha parola lozinka wachtwoord heslo passcode accessCode access_code door_code
    unlockCode unlockPattern newPassword oldPassword currentPassword confirmPassword
    passwordConfirm password2 password_hash hashedPassword pw user_pw
""".split()  # noqa: SIM905 - read as words

#: Cookies with several values.
COOKIES = (
    "Cookie: a=1; session=§; theme=dark",
    "cookie: theme=dark; _ga=GA1.2.3; auth=§",
    "Cookie: sid=§; sid.sig=abc§",
    "Set-Cookie: sessionid=§; HttpOnly; Path=/; SameSite=Lax",
    "set-cookie: __Host-sess=§; Secure",
    "'Cookie': 'a=b; c=§'",
    "{\"cookie\": \"a=b; c=§\"}",
    "Cookie: \"quoted=a b\"; remember_me=§",
    "COOKIE=PHPSESSID=§; x=1",
    "cookies={'csrftoken': '§', 'sessionid': '§'}",
    "<Cookie sessionid=§ for .example.com/>",
    "curl -b 'sid=§; a=1' https://x",
    "curl --cookie sid=§ https://x",
    "Cookie: only§",
)  # fmt: skip

#: With spaces, quotes and signs in them, and over several lines.
PASSWORDS = (
    '"contraseña": "§"',
    "пароль: §",
    "密码=§",
    "smtp_pass=12345678§",
    "password=\"correct horse § staple\"",
    "password='correct horse § staple'",
    "password: \"correct horse §\"",
    "{\"password\": \"correct horse \\\"§\\\" staple\"}",
    "{\"password\": \"a\\\\\\\"§\"}",
    "{\"a\":\"{\\\"password\\\": \\\"x \\\\\\\"§\\\\\\\" y\\\"}\"}",
    "PASSWORD=\"it's §\"",
    "pwd='say \"§\" now'",
    "Login(password='correct horse §', user='bob')",
    "{'password': \"it's §\"}",
    "password = \"correct horse §\"",
    "password=`correct §`",
    "password=“correct §”",
    "&password=correct%20horse%20§&x=1",
    "password=correct+horse+§&x=1",
    "<password>correct horse §</password>",
    "<password><![CDATA[correct horse §]]></password>",
    "<add key=\"password\" value=\"correct §\"/>",
    "<user name=\"bob\" password=\"correct horse §\"/>",
    "--password 'correct horse §'",
    "--password=\"correct horse §\"",
    "--password=correct\\ horse\\ §",
    "export PASSWORD='correct horse §'",
    "$env:PASSWORD = 'correct §'",
    "password: >-\n  correct horse §\nhost: a",
    "password: |\n  §\nhost: b",
    "password:\n  §",
    "password = '''correct\n§'''",
    "password = \"\"\"correct\n§\"\"\"",
    "password: !!str §",
    "password: !vault §",
    "password=correct;§",
    "password=a&§",
    "password=a,§",
    "password=(§",
    "password={§}x",
    "password=pa$$§",
    "password=a'§",
    "password=a\"§",
    "password=Bat\\§",
    "password:§",
    "password : §",
    "password => '§'",
    "password := \"§\"",
    "password==§",
    "Password is '§!'",
    "password is: §",
    "my password was '§'",
)  # fmt: skip

#: Files of configuration, commands, statements.
FILES = (
    "db:\n  user: bob\n  password: §\n  port: 1",
    "- name: DB_PASSWORD\n  value: §",
    "- name: DB_PASSWORD\n  value: \"§\"",
    "[db]\npassword = \"§\"\nport = 5",
    "[smtp]\npass=§\n",
    "db.password=§\ndb.user=bob",
    "\"password\" = \"§\"",
    "secrets:\n  - §",
    "api_keys:\n  - §\n  - b",
    "api_keys = [\"a\", \"§\"]",
    "apiVersion: v1\nkind: Secret\ndata:\n  password: §\n",
    "stringData:\n  DB_PASS: §",
    "AWS_SECRET_ACCESS_KEY=§\nAWS_REGION=eu",
    "aws_secret_access_key = §",
    "//registry.npmjs.org/:_authToken=§",
    "_auth=§",
    "always-auth=true\n//r/:_password=§",
    "[pypi]\nusername = __token__\npassword = §",
    "index-url = https://bob:§@pypi.example.com/simple",
    "{\"auths\":{\"https://index.docker.io/v1/\":{\"auth\":\"§\"}}}",
    "docker login -u bob -p § registry",
    "mysql -u root -p§ db",
    "mysql --user=root --password=§ db",
    "mysqldump -uroot -p'§' db",
    "PGPASSWORD=§ psql -h db",
    "sshpass -p § ssh host",
    "sshpass -p '§' ssh host",
    "curl -u bob:§ https://x",
    "curl --user bob:§ https://x",
    "curl -u 'bob:§' https://x",
    "curl -ubob:§ https://x",
    "curl -H \"X-Api-Key: §\" https://x",
    "curl -H 'PRIVATE-TOKEN: §' https://x",
    "curl -d 'user=bob&password=§' https://x",
    "curl --data '{\"password\":\"§\"}' https://x",
    "curl -F password=§ https://x",
    "curl --oauth2-bearer § https://x",
    "curl --proxy-user a:§ https://x",
    "wget --password=§ https://x",
    "wget --http-password § https://x",
    "redis-cli -a § ping",
    "mongo -u a -p § --authenticationDatabase admin",
    "psql 'host=db user=bob password=§ dbname=x'",
    "htpasswd -b file bob §",
    "openssl enc -aes-256-cbc -k § -in a",
    "openssl rsa -passin pass:§ -in a",
    "ansible-playbook --extra-vars 'db_password=§'",
    "helm install x --set auth.password=§",
    "kubectl create secret generic s --from-literal=password=§",
    "docker run -e DB_PASSWORD=§ img",
    "heroku config:set SECRET_KEY=§",
    "git clone https://oauth2:§@gitlab.com/a/b",
    "svn co --username bob --password § http://x",
    "smbclient -U 'dom\\bob%§' //h/s",
    "ldapsearch -D cn=bob -w § -b x",
    "keytool -storepass § -list",
    "java -Djavax.net.ssl.keyStorePassword=§ -jar a",
    "zip -P § a.zip b",
    "7z x -p§ a.7z",
    "gpg --passphrase § -d a",
    "az login --service-principal -u a -p § --tenant t",
    "ALTER USER bob WITH PASSWORD '§'",
    "CREATE USER bob IDENTIFIED BY '§'",
    "SET PASSWORD FOR bob = '§'",
    "SET PASSWORD = PASSWORD('§')",
    "UPDATE users SET password = '§' WHERE id = 1",
    "GRANT ALL ON x TO bob IDENTIFIED BY \"§\"",
    "CREATE ROLE bob LOGIN PASSWORD '§'",
)  # fmt: skip

#: Strings and URLs to connect by, and signed ones.
ADDRESSES = (
    "Server=tcp:db,1433;Initial Catalog=x;User ID=sa;Pwd=§;Encrypt=True",
    "Data Source=db;UID=sa;PWD=§",
    "Driver={ODBC Driver 17};Server=db;Uid=a;Pwd=§;",
    "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=§==;EndpointSuffix=core.windows.net",
    "Endpoint=sb://x.servicebus.windows.net/;SharedAccessKeyName=Root;SharedAccessKey=§=",
    "HostName=h.azure-devices.net;DeviceId=d;SharedAccessKey=§=",
    "AccountEndpoint=https://x.documents.azure.com:443/;AccountKey=§==;",
    "https://a.blob.core.windows.net/c/b?sv=2022-11-02&sr=b&sig=§%3D&se=2026-01-01",
    "BlobEndpoint=https://a/;SharedAccessSignature=sv=2020&sig=§",
    "https://b.s3.amazonaws.com/k?X-Amz-Algorithm=A&X-Amz-Credential=C&X-Amz-Signature=§&X-Amz-Date=1",
    "https://storage.googleapis.com/b/o?X-Goog-Signature=§&X-Goog-Expires=1",
    "https://d.cloudfront.net/a?Expires=1&Signature=§&Key-Pair-Id=K",
    "postgresql+asyncpg://bob:§@db:5432/x?ssl=1",
    "mysql+pymysql://root:§@127.0.0.1/x",
    "redis://:§@cache:6379/0",
    "rediss://default:§@h:6380",
    "amqps://u:§@mq/vhost",
    "mongodb+srv://u:§@c.mongodb.net/x?retryWrites=true",
    "mongodb://u:§@a:27017,b:27017/x?replicaSet=r",
    "mssql+pyodbc://sa:p%40§@db/x?driver=ODBC",
    "oracle://scott:§@db:1521/x",
    "sqlite+pysqlcipher://:§@/x.db",
    "clickhouse://default:§@h:9000",
    "snowflake://u:§@acc/db",
    "ldap://cn=a:§@h",
    "ftp://anonymous:§@h/a",
    "sftp://u:§@h:22/a",
    "smtp://u%40x.com:§@smtp.x.com:587",
    "imaps://u:§@h",
    "https://u:pa:§@h/",
    "https://u:p@§@h/",
    "http://u:§@[::1]:8080/",
    "nats://u:§@n1:4222",
    'sasl.jaas.config=org.apache.kafka.PlainLoginModule required user="a" password="§";',
    "sasl.password=§",
    "spring.datasource.password=§",
    "jdbc:postgresql://h/db?user=a&password=§",
    "jdbc:sqlserver://h:1433;databaseName=x;user=a;password=§;",
    "jdbc:oracle:thin:scott/§@//h:1521/x",
    "bolt://neo4j:§@h:7687",
    "DATABASE_URL=postgres://a:§@h/x",
    "Provider=SQLOLEDB;Password=§;User ID=a",
    "host=h;port=1;username=a;passphrase=§",
    "proxy http://a:§@proxy:3128 refused",
    "('postgres://a:§@h',)",
    "connecting to <postgres://a:§@h>",
    "dsn=\"postgres://a:§@h\"",
)  # fmt: skip

#: URLs that are a secret as a whole.
HOOKS = (
    "https://hooks.slack.com/services/T00000000/B00000000/<A31>",
    "https://hooks.slack.com/workflows/T000/A00/123/<A31>",
    "https://hooks.slack.com/triggers/T0/1/<A31>",
    "https://discord.com/api/webhooks/123456789012345678/<A31>",
    "https://discordapp.com/api/webhooks/123456789012345678/<A31>",
    "https://canary.discord.com/api/v10/webhooks/1234567890/<A31>/messages/1",
    "https://outlook.office.com/webhook/a@b/IncomingWebhook/<A31>/c",
    "https://x.webhook.office.com/webhookb2/11111111-2222-3333-4444-555555555555@66666666-7777-8888-9999-000000000000/IncomingWebhook/<A31>/aaaaaaaa",
    "https://api.telegram.org/bot123456789:AA<A33>/sendMessage",
    "https://chat.googleapis.com/v1/spaces/A/messages?key=k&token=<A31>",
    "https://hooks.zapier.com/hooks/catch/123456/<A31>/",
    "https://maker.ifttt.com/trigger/e/with/key/<A31>",
    "https://open.feishu.cn/open-apis/bot/v2/hook/<A31>",
    "https://oapi.dingtalk.com/robot/send?access_token=<A31>",
    "https://qyapi.weixin.qq.com/cgi-bin/webhook/send?key=<A31>",
    "https://hooks.airtable.com/workflows/v1/genericWebhook/app1/wfl1/<A31>",
)  # fmt: skip

#: Tracebacks, texts of objects, lines of other loggers and servers.
REPORTS = (
    "Traceback:\n  File \"a.py\", line 3, in f\n    connect(password='§')\nValueError: bad",
    "    locals: {'password': '§', 'self': <A>}",
    "KeyError: 'x'; env={'API_KEY': '§'}",
    "│ password = '§' │",
    "password = '§'                                                    ",
    "│ │ api_key = '§'                                     │ │",
    "AssertionError: assert login(token='§') is None",
    "E   requests.exceptions.HTTPError: 401 for url: https://x/?api_key=§",
    "pydantic: [type=value_error, input_value={'password': '§'}, input_type=dict]",
    "sqlalchemy [parameters: {'name': 'bob', 'password': '§'}]",
    "User(id=1, name='bob', password='§')",
    "<User password=§>",
    "Config(db=Db(password='§'))",
    "dataclass(token='§')",
    "OrderedDict([('token', '§')])",
    "environ({'SECRET_KEY': '§'})",
    "Namespace(password='§', v=1)",
    "mappingproxy({'secret': '§'})",
    "{b'authorization': b'§'}",
    "[(b'cookie', b'a=§')]",
    "headers: CIMultiDict('Authorization': '§')",
    "Headers({'x-api-key': '§'})",
    "ImmutableMultiDict([('password', '§')])",
    "b'{\"password\": \"§\"}'",
    "b'user=bob&password=§'",
    "DEBUG:x:POST /login {\"password\":\"§\"} 200",
    "send: b'GET / HTTP/1.1\\r\\nAuthorization: §\\r\\n'",
    "header: Set-Cookie: id=§; Path=/",
    "> Authorization: §",
    "* Server auth using Basic with user 'bob' password '§'",
    "\"GET /?token=§ HTTP/1.1\" 200",
    "10.0.0.1 - - \"GET /cb?code=1&state=2&access_token=§ HTTP/1.1\"",
    "referer: https://x/#access_token=§&expires_in=1",
    "token \"§\" expired",
    "invalid password '§' for user bob",
    "password \"§\" rejected",
    "Invalid API key provided: §",
    "Incorrect API key provided: §.",
    "wrong password: §",
    "auth: failed with token §",
)  # fmt: skip

SCHEMES = (
    "Bearer <A8>", "bearer <W40>", "Token <H40>", "ApiKey <A44>==", "SSWS <W42>",
    "Bot <A24>.<A6>.<A27>",
    "PRIVATE-TOKEN <A20>", "DPoP <A50>", "Negotiate YII<B60>", "OAuth <A30>", "GenieKey <H8>-<H4>",
    "Splunk <H8>-1234", "AWS AKIAIOSFODNN7EXAMPLE:<A27>=",
)  # fmt: skip
KINDS_OF_KEYS = (
    "PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "DSA PRIVATE KEY", "ENCRYPTED PRIVATE KEY",
    "OPENSSH PRIVATE KEY", "SSH2 ENCRYPTED PRIVATE KEY", "PGP PRIVATE KEY BLOCK",
)  # fmt: skip
_SHAPES = (
    "{k}={v}", '"{k}": "{v}"', "'{k}': '{v}'", "{k}: {v}", "?a=1&{k}={v}&b=2", "<{k}>{v}</{k}>",
    "--{k} {v}", '{k} = "{v}"', '{{\\"{k}\\": \\"{v}\\"}}', "('{k}', '{v}')", "{k}%3D{v}%26b%3D1",
)  # fmt: skip
_AROUND = ("§", "sent § to the peer", '{"value": "§"}', "x=§,", "https://h.example/cb?v=§&a=1",
           "Error('§')", "got\n§\nend", "[§]", "ctx: §.", "'got\\n§\\n'", "%22§%22")  # fmt: skip


def texts() -> Iterator[tuple[str, str]]:
    """Yield each secret with a text that it is in."""
    chance = random.Random(12)
    for number, form in enumerate(TOKENS):
        token = filled(form, chance)
        for place in (0, number, number * 5 + 2):
            yield token, _AROUND[place % len(_AROUND)].replace("§", token)
    for number, key in enumerate(KEYS):
        shape = _SHAPES[number % len(_SHAPES)] if key.isascii() else _SHAPES[0]
        yield SECRET, shape.format(k=key, v=SECRET)
    for text in (*COOKIES, *PASSWORDS, *FILES, *ADDRESSES, *REPORTS):
        yield SECRET, text.replace("§", SECRET)
    for form in HOOKS:
        url = filled(form, chance)
        yield max((part for part in re.split("[/=?@:]", url) if "-" not in part), key=len), url
    for scheme in SCHEMES:
        value = filled(scheme, chance)
        secret = value.split(" ")[1]
        yield secret, f"Authorization: {value}"
        yield secret, json.dumps({"headers": {"authorization": value}})
    yield from _keys(chance)
    yield from _credentials(chance)


def _keys(chance: random.Random) -> Iterator[tuple[str, str]]:
    body = "\n".join(filled("<B64>", chance) for _ in range(3))
    first = body[:64]
    for kind in KINDS_OF_KEYS:
        key = f"-----BEGIN {kind}-----\n{body}\n-----END {kind}-----"
        yield first, key
        yield json.dumps(first)[1:-1], json.dumps({"k": key})
    kind = KINDS_OF_KEYS[-2]
    yield first, f"---- BEGIN {kind} ----\n{body}\n---- END {kind} ----"
    yield first, f"PuTTY-User-Key-File-3: ssh-rsa\nPrivate-Lines: 3\n{body}\nPrivate-MAC: 1"
    yield first, f"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\n{body}"
    yield first, f"key: |\n  -----BEGIN PRIVATE KEY-----\n  {first}\n  -----END PRIVATE KEY-----"


def _credentials(chance: random.Random) -> Iterator[tuple[str, str]]:
    signature, claims = filled("<W43>", chance), "eyJzdWIiOiAiNDIifQ"
    for head in ("eyJhbGciOiAiSFMyNTYifQ", "eyAiYWxnIjogIlJTMjU2In0", "ewogImFsZyI6IkhTMjU2In0"):
        token = f"{head}.{claims}.{signature}"
        yield signature, token
        yield claims, f"https://a.b/#id={token}"
        yield signature, json.dumps({"a": json.dumps({"b": token})})
    yield claims, f"eyJhbGciOiAibm9uZSJ9.{claims}."
    parts = [filled(f"<W{length}>", chance) for length in (80, 16, 60, 22)]
    yield parts[2], f"id {'.'.join(['eyJhbGciOiAiUlNBIn0', *parts])} ok"
    for pair in ("a:b", "u:1", "me:pw", ":token123", "tok:"):
        encoded = base64.b64encode(pair.encode()).decode()
        yield encoded, f"sent Basic {encoded} to the proxy"
        yield encoded, f"curl -H 'Authorization: Basic {encoded}' https://x"


#: Names of what is counted, named or described.
NEIGHBOUR_KEYS = """
    author_id authored_at authority_score coauthors authentication_method authorized_at
    authorized token_budget tokens_per_minute token_expiry token_expires_in tokenizer_name
    sessions_total session_length session_start session_end session_type session_active
    cookie_policy cookie_count cookies_enabled password_age password_age_days password_expired
    password_expires_at password_updated_at password_reset password_reset_sent needs_password
    secret_arn secret_path secret_count credential_id credentials_expired_at api_key_name
    api_key_prefix_length key_name key_type key_size key_version keywords publicKey object_key
    s3_key s3.key redis.key kafka.key message_key hash_key row_key map_key keyspace
    signature_version signature_algorithm signed_at assigned signal csrf_valid jwt_audience
    jwt_expired pin_count pinned_at shipping mapping card_brand card_last4 cardinality discard
    scorecard passengers passes pass_rate passport_country passport_check bypass_cache passive
    ibanez iban_country otp_sent_at mfa_enabled mfa_method auth_type auth_latency_ms auth_time
    oauth_scopes code status_code error_code exit_code country_code zip_code postal_code
    currency_code language_code http.status_code db.query.text url.full http.route user.name
    client_id tenant_id organization salt_level seed random_seed hash sha256 license licensed
    access access_level accessed_at bearer_count basic_plan verification_status recovered
    recovery_mode seed_count connection_count connection_pool connector dsn_host
    connection_state secret_santa_count tokenization_ms certificate_expiry cert_path ssl_enabled
    tls_version private_beta private is_private privacy shared shared_with master_node master
    access_log access_count service_name service_key_count storage_class storage_used
    signing_enabled encrypted encryption_enabled encryption_algorithm
""".split()  # noqa: SIM905 - read as words

#: Ids and hashes of other programs.
IDS = (
    "arn:aws:lambda:eu-west-1:123456789012:function:f",
    "i-<H17> started",
    "vpc-<H8>",
    "ami-<H17>",
    "cus_<A14>",
    "pi_<A24>",
    "price_1<A23>",
    "evt_1<A23>",
    "req_<A14>",
    "msg_<A24>",
    "chatcmpl-<A29>",
    "resp_<H48>",
    "run_<A24>",
    "thread_<A24>",
    "ksuid <A27>",
    "nanoid <A21>",
    "traceparent 00-<H32>-<H16>-01",
    "b3 <H32>-<H16>-1",
    "integrity sha512-<B86>==",
    "sha384-<B64>",
    "md5 <B22>==",
    "image sha256:<H64> pulled",
    "git diff <H7>..<H7>",
    "/assets/app.<H8>.js",
    "/var/lib/docker/overlay2/<H64>/merged",
    'W/"<H16>"',
    "pod web-<H9>-<H5> ready",
    "uuid=<H8>-<H4>-4<H3>-a<H3>-<H12>",
)
#: Words that have a secret's name in them.
WORDS = """
    author authors authority authenticated authentication authorize tokenizer tokenization
    tokens secretary secretariat passenger passport password-reset passwordless keyboard keynote
    monkey turkey donkey cookies cookiecutter session sessions sessional obsession pinned
    pinning opinion spinning signature signatures design designated signal credential
    credentials credit bearer forbearer basic basically cardboard cardinal discard wildcard
    scorecard ibanez pass passes passing compass bypass surpass trespass encompass passive
    passion apikey-rotation
""".split()  # noqa: SIM905 - read as words

_SENTENCES = ("the {} of the day", "{} changed", "see {}.py", "/{}/list?page=2")
#: What is said of a token, a password, a session.
SAID = (
    "{} expired", "{} is required", "no {} given", "invalid {}", "{}: missing",
    "{} refresh took 12 ms",
    "{}_count=3", "{}_id_type=a", "{} has been rotated", "missing {} in request", "{} not found",
    "the {} was accepted for user 42", "'{}'", "field {} is of type str", "{}=None", "{}=***",
    "{}: null", "Enter {}: ",
)  # fmt: skip
NEIGHBOUR_TEXTS = """\
GET /token/refresh HTTP/1.1
POST /oauth/token HTTP/1.1 200
https://example.com/password/reset?next=/home
https://example.com/auth/login#top
git@github.com:acme/shop.git
ssh://git@github.com/acme/shop
https://user@example.com/path
http://localhost:5432/secret-santa
see https://docs.example.com/api-keys/rotate for details
max_tokens=4096 temperature=0.2 top_p=1
usage: prompt_tokens=12, completion_tokens=34, total_tokens=46
tokens per second: 34.5
token budget: 1000
session_duration_s=12.5 session_count=4
author: Anna Schmidt
authority: example.com
:authority: example.com
key: value
key=user:42
cache key user:42:profile missed
primary key id on table users
foreign_key=orders.user_id
sort by key descending
partition key 2026-11
idempotency-key: 7f3c
public_key=ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIExample bob@host
ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQ bob@laptop
-----BEGIN CERTIFICATE-----
-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A
password must contain a digit, a letter and 12 characters
password policy: at least 12 characters
Passwords do not match
Your password was changed 3 days ago
password strength: strong
forgot password?
please enter your password
has_password=true is_secret=false
auth_method=oauth2 auth_provider=google
auth: ok
auth=basic
Authorization header missing
Authorization: required
WWW-Authenticate: Basic realm="shop"
WWW-Authenticate: Bearer error="invalid_token"
basic auth is enabled
basic plan: 12 EUR
Basic knowledge of SQL
a bearer of good news
Bearer authentication failed
bearer tokens are supported
pin 7 is high
GPIO pin=4
pin code must have 4 digits
the pin is wrong
pinned to 1.2.3
otp_enabled=true
sign: +
signature verified
signature mismatch for request 7
X-Signature-Version: 2
pass 3 of 5
pass=12 fail=0
passed: 12, failed: 0
12 passed, 1 failed
tests pass: yes
passes: 3
boarding pass for seat 12A
secret santa draws names
secret_name=db-prod version=3
Secret "db-prod" synced
secretKeyRef: name db
kind: Secret
cookie consent: accepted
cookie_domain=.example.com
set cookie policy to strict
cookies accepted
credentials provider: env
credential_type=oidc
credentials are valid
card type: visa
card ending in 4242
card_type=visa last4=4242
exp 12/27
IBAN is required
iban country DE
jwt_issuer=https://issuer.example.com
jwt expired
JWT algorithm RS256
csrf check passed
csrf_enabled=1
CSRF token missing or incorrect.
api key limit reached
API keys: 3 active
api_key_id=17
apikey_count=2
access granted
access key rotation is due
license: Apache-2.0
license=MIT
product_code=ABC-123
verification status: pending
code=404
status_code=200
error code: E1234
zip code: 10115
country code: DE
exit code: 1
postal_code=10115
promo code SUMMER applied
recovery mode on
seed=42
random seed: 7
salt and pepper
hash=9f86d081884c7d659a2feaa0c55ad015
username=bob user_id=42
user: bob
login: bob
client_id=7f3c9a2b
client_id: web-frontend
tenant=acme plan=gold
host=db port=5432 dbname=shop user=bob
Server=db;Database=shop;Trusted_Connection=yes
redis://cache:6379/0
postgres://db/shop
postgres://bob@db/shop
amqp://mq:5672//
mongodb://a:27017,b:27017/x
kafka://k1:9092
https://sentry.io/organizations/acme/issues/42
https://hooks.example.com/health
https://hooks.slack.com/
https://discord.com/channels/1/2
https://api.telegram.org/
https://registry.npmjs.org/left-pad
pip install pypi-simple
npm_lifecycle_event=build
npm_package_version=1.2.3
sk-learn is not sklearn
sk-SK locale
pk_test is a publishable key
gh_actions run 12
xoxo
key-value store
key_path=/etc/ssl/a.pem
--password-stdin
--token-file /run/secrets/t
--no-auth --verbose
-p 8080:80
-u 1000:1000
docker run -p 8080:80 -u 1000:1000 img
mkdir -p build
ps -u bob
curl -u https://x
python -u main.py
sort -u file
date -u: now
12:30:01 started
user 42: 3 items
version 1.2.3.4
10.0.0.1:8080
[::1]:8080
4111 1111 1111 1112 is no card
DE89 3704 0044 0532 0130 01 is no account
16 digits: 1234567890123456
phone +1 415 555 2671
a=b&c=d
lat=52.5,lon=13.4
{"page": 2, "next_page_token_valid": true}
{"name": "bob", "value": 3}
{"name": "Content-Type", "value": "text/html"}
{"key": "color", "value": "blue"}
<author>Bob</author>
<key>color</key><value>blue</value>
class Token(BaseModel):
def get_token(self) -> str:
token: str
token: Token
password: SecretStr
secret: bytes = b""
return self.token
if not password:
raise InvalidToken("expired")
TokenError: token is expired
jwt.exceptions.ExpiredSignatureError: Signature has expired
KeyError: 'api_key'
ValueError: invalid literal for int() with base 10: 'abc'
assert token is not None
SELECT id, password FROM users WHERE id = 1
SELECT token FROM t
SELECT * FROM sessions WHERE id = 5
UPDATE users SET password_changed_at = now() WHERE id = 1
CREATE TABLE users (password varchar(80), token text)
ALTER TABLE users ADD COLUMN secret text
DROP USER bob
tokenize(text) took 3 ms
secrets.token_hex(16)
getpass.getpass()
os.environ["API_KEY"]
settings.SECRET_KEY is not set
process.env.TOKEN
${{ secrets.GITHUB_TOKEN }}
token: ${{ secrets.GITHUB_TOKEN }}
password: "{{ vault_password }}"
password: $PASSWORD
PASSWORD=$(cat /run/secrets/p)
password=<redacted>
password=xxxxxxxx
password=********
token=[FILTERED]
token=...
authorization=[REDACTED]
secret=(hidden)
cookie: <none>""".split("\n")  # noqa: SIM905 - as well


def neighbours() -> Iterator[str]:
    """Yield harmless texts."""
    chance = random.Random(13)
    yield from NEIGHBOUR_TEXTS
    for form in IDS:
        for _ in range(8):
            yield filled(form, chance)
    for word in WORDS:
        yield from (sentence.format(word) for sentence in _SENTENCES)
    for name in ("token", "password", "session", "secret", "cookie", "credential", "key", "pin"):
        yield from (sentence.format(name) for sentence in SAID)
