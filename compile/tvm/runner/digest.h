#ifndef DEBLUR_DIGEST_H
#define DEBLUR_DIGEST_H

/* SHA-256 of a file as 64 hex digits and a zero (FIPS 180-4); 0 when it can be read, -1 when not. */
int sha256_file(const char *path, char hex[65]);

#endif
