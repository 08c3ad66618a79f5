/* SPDX-License-Identifier: Apache-2.0 */
/* The broker's requests, one function each: asks the device, puts the answer into words of the schema. */
#ifndef SLUICE_IMAGED_HANDLERS_H
#define SLUICE_IMAGED_HANDLERS_H

#include "imaged/request.h"

/* Fills request->answer, with an image_error where it went wrong; `trouble` says then why. */
enum request_outcome handle_request(struct request *request, struct trouble *trouble);

#endif
