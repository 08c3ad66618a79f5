/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers of 128 bits, for products of two sizes that the C standard has no type for. */
#ifndef SLUICE_BROKER_CORE_WIDE_H
#define SLUICE_BROKER_CORE_WIDE_H

__extension__ typedef __int128 wide;
__extension__ typedef unsigned __int128 unsigned_wide;

#endif
