"""An S3 service on a loopback port: moto, which checks signatures with botocore's own code.

Prints one line of JSON when it is ready, then answers each line of JSON with one, until standard input ends.
"""

import datetime
import json
import os
import sys
import urllib.parse

# What makes the user needs no signature; everything after that does.
os.environ["INITIAL_NO_AUTH_ACTION_COUNT"] = "3"

import boto3  # noqa: E402
from botocore.config import Config  # noqa: E402
from moto.backends import get_backend  # noqa: E402
from moto.iam.access_control import S3IAMRequest  # noqa: E402
from moto.server import ThreadedMotoServer  # noqa: E402

create_request = S3IAMRequest._create_aws_request


def create_request_with_encoded_path(self):
    """Moto signs the decoded path, which fails botocore's own requests as soon as something in it is encoded."""
    path, mark, query = self._path.partition("?")
    self._path = urllib.parse.quote(path, safe="/~") + mark + query
    return create_request(self)


S3IAMRequest._create_aws_request = create_request_with_encoded_path

sys.stdout, out = sys.stderr, sys.stdout
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
url = "http://%s:%d" % server.get_host_and_port()


def client(service, key, secret):
    return boto3.client(
        service,
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        config=Config(proxies={}, s3={"addressing_style": "path"}),
    )


iam = client("iam", "none", "none")
iam.create_user(UserName="builder")
allow = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
iam.put_user_policy(UserName="builder", PolicyName="all", PolicyDocument=json.dumps(allow))
key = iam.create_access_key(UserName="builder")["AccessKey"]
s3 = client("s3", key["AccessKeyId"], key["SecretAccessKey"])
s3.create_bucket(Bucket="cache")


def objects():
    buckets = get_backend("s3")["123456789012"]["aws"].buckets
    return dict(buckets["cache"].keys.items())


def answer(command):
    if "list" in command:
        # Moto's signatures fail with a prefix that has to be encoded.
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket="cache")
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
        return [key for key in keys if key.startswith(command["list"])]
    if "read" in command:
        return s3.get_object(Bucket="cache", Key=command["read"])["Body"].read().decode("latin-1")
    if "write" in command:
        s3.put_object(Bucket="cache", Key=command["write"], Body=command["bytes"].encode("latin-1"))
    if "delete" in command:
        s3.delete_object(Bucket="cache", Key=command["delete"])
    if "age" in command:
        for name, stored in objects().items():
            if name.startswith(command["age"]):
                stored.last_modified -= datetime.timedelta(hours=command["hours"])
    if "old" in command:
        now = datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)
        return [
            name
            for name, stored in objects().items()
            if now - stored.last_modified.replace(tzinfo=None) > datetime.timedelta(hours=1)
        ]
    if "uploads" in command:
        return [upload["Key"] for upload in s3.list_multipart_uploads(Bucket="cache").get("Uploads", [])]
    return None


def say(value):
    print(json.dumps(value), file=out, flush=True)


say({"url": url, "id": key["AccessKeyId"], "secret": key["SecretAccessKey"]})
for line in sys.stdin:
    say(answer(json.loads(line)))
