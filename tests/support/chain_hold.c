/* SPDX-License-Identifier: Apache-2.0 */
/* chain_hold [--read-only] LEAF: opens and locks a chain as imaged does, says "held", and keeps it until its input ends.  Where the
 * chain is refused: the reason on stdout, and exit 3 if it is in use, else 1. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "imaged/chain.h"
#include "schemas/errors.gen.h"

int main(int argc, char **argv)
{
	bool read_only = argc > 1 && strcmp(argv[1], "--read-only") == 0;
	struct roots *roots = roots_new();
	struct chain *chain = NULL;
	struct err err;

	if (argc != (read_only ? 3 : 2))
		return 2;
	if (roots_add(roots, "/", &err) < 0 ||
		chain_open(roots, argv[argc - 1], "qcow2", read_only, &chain, &err) < 0) {
		printf("%s\n", err.text);
		roots_free(roots);
		return err.kind == ERROR_CLASS_DEVICE_IN_USE ? 3 : 1;
	}
	printf("held\n");
	fflush(stdout);
	while (getchar() != EOF)
		;
	chain_free(chain);
	roots_free(roots);
	return 0;
}
