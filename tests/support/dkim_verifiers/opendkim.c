/* libopendkim as a verifier. A line in: the message and the key record, each in hexadecimal digits. A line out: the result. */
#include <opendkim/dkim.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *key;

static DKIM_CBSTAT lookup(DKIM *dkim, DKIM_SIGINFO *signature, unsigned char *buffer, size_t size)
{
  (void)dkim;
  (void)signature;
  snprintf((char *)buffer, size, "%s", key);
  return DKIM_CBSTAT_CONTINUE;
}

static size_t decode(char *text)
{
  size_t size = 0;
  for (; text[2 * size] && text[2 * size + 1]; size++) {
    char pair[3] = {text[2 * size], text[2 * size + 1], 0};
    text[size] = (char)strtol(pair, NULL, 16);
  }
  text[size] = 0;
  return size;
}

int main(void)
{
  static char line[1 << 20];
  DKIM_LIB *lib = dkim_init(NULL, NULL);
  dkim_set_key_lookup(lib, lookup);
  setlinebuf(stdout);
  while (fgets(line, sizeof line, stdin) != NULL) {
    DKIM_STAT status;
    DKIM *dkim;
    char *message = line;
    size_t size;
    key = strchr(line, '\t');
    *key++ = 0;
    key[strcspn(key, "\n")] = 0;
    size = decode(message);
    decode(key);
    dkim = dkim_verify(lib, (unsigned char *)"1", NULL, &status);
    if (dkim != NULL) {
      status = dkim_chunk(dkim, (unsigned char *)message, size);
      if (status == DKIM_STAT_OK)
        status = dkim_chunk(dkim, NULL, 0);
      if (status == DKIM_STAT_OK)
        status = dkim_eom(dkim, NULL);
      dkim_free(dkim);
    }
    puts(status == DKIM_STAT_OK ? "pass" : status == DKIM_STAT_NOSIG ? "none" : dkim_getresultstr(status));
  }
  return 0;
}
