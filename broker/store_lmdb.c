/* SPDX-License-Identifier: Apache-2.0 */
/* The store in LMDB: one named database a table, LMDB's full synchronous commits.  The only file that includes lmdb.h.
 *
 * The map is grown by the changing thread while no view is open: `remap` is held for reading as long as a view lives, and for
 * writing while the map moves.  Room runs out in two places, and both end as STORE_FULL with nothing changed: the map
 * (MDB_MAP_FULL at its greatest size; the reserve is then more map) and the disk (ENOSPC from the commit; the reserve is then a
 * file of zeroes beside the data, which is removed).  A commit error of any other kind means that LMDB no longer knows what is on
 * the disk. */
#include "broker/store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <lmdb.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>

#include "common/check.h"
#include "common/log.h"

#define MAP_BYTES_DEFAULT     (1ULL << 30)
#define MAP_BYTES_MAX_DEFAULT (64ULL << 30)
#define RESERVE_DEFAULT	      (8ULL << 20)
#define RESERVE_FILE	      "reserve"
#define FEW_FREE_BYTES	      (1ULL << 20)

static const char *const table_names[STORE_TABLES] = {
	[STORE_SETTINGS] = "settings",
	[STORE_DEVICES] = "devices",
	[STORE_JOBS] = "jobs",
	[STORE_PROGRESS] = "progress",
	[STORE_MAP_PAGES] = "map-pages",
	[STORE_EVENTS] = "events",
	[STORE_TOKENS] = "tokens",
};

struct store {
	MDB_env *env;
	MDB_dbi tables[STORE_TABLES];
	char *folder;
	int folder_fd;
	uint64_t map_bytes, map_bytes_max; /* of the map; the maximum does not count the reserve */
	uint64_t reserve_bytes;
	bool map_reserve_used;
	pthread_rwlock_t remap;
};

struct store_view {
	struct store *store;
	MDB_txn *transaction;
	MDB_cursor *cursor;
};

static int lmdb_failed(struct err *err, const struct store *store, int code, const char *what)
{
	if (code > 0)
		return err_set_errno(err, code, "%s the store in '%s'", what, store->folder);
	return err_set(err, "%s the store in '%s': %s", what, store->folder, mdb_strerror(code));
}

/* ---- opening */

/* LMDB's locks and maps hold on one machine only. */
static int refuse_network_file_system(const struct store *store, struct err *err)
{
	static const struct {
		uint32_t magic;
		const char *name;
	} refused[] = {
		{0x6969, "NFS"},
		{0x517b, "SMB"},
		{0xff534d42, "CIFS"},
		{0xfe534d42, "SMB2"},
		{0x00c36400, "Ceph"},
		{0x01021997, "9p"},
		{0x5346414f, "AFS"},
		{0x0bd00bd0, "Lustre"},
		{0x73757245, "Coda"},
		{0x564c, "NCP"},
	};
	struct statfs found;

	if (fstatfs(store->folder_fd, &found))
		return err_set_errno(err, errno, "look at the file system of '%s'", store->folder);
	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++)
		if ((uint32_t)found.f_type == refused[i].magic)
			return err_set(err,
				"the state folder '%s' lies on a network file system (%s): it must be a local one",
				store->folder, refused[i].name);
	return 0;
}

/* LMDB 0.9.24 opens its data file without O_CLOEXEC. */
static void close_data_on_exec(void)
{
	DIR *folder = opendir("/proc/self/fd");
	const struct dirent *entry;

	if (!folder)
		return;
	while ((entry = readdir(folder))) {
		char target[4096];
		ssize_t length =
			readlinkat(dirfd(folder), entry->d_name, target, sizeof(target) - 1);

		if (length < 9)
			continue;
		target[length] = 0;
		if (!strcmp(target + length - 9, "/data.mdb"))
			fcntl((int)strtol(entry->d_name, NULL, 10), F_SETFD, FD_CLOEXEC);
	}
	closedir(folder);
}

static int open_tables(struct store *store, struct err *err)
{
	MDB_txn *transaction = NULL;
	int code = mdb_txn_begin(store->env, NULL, 0, &transaction);

	for (int i = 0; !code && i < STORE_TABLES; i++)
		code = mdb_dbi_open(transaction, table_names[i], MDB_CREATE, &store->tables[i]);
	if (!code) {
		code = mdb_txn_commit(transaction);
		transaction = NULL;
	}
	if (transaction)
		mdb_txn_abort(transaction);
	return code ? lmdb_failed(err, store, code, "open the tables of") : 0;
}

/* A map at least as large as what is stored already. */
static int open_environment(struct store *store, struct err *err)
{
	MDB_envinfo info;
	int dead;
	int code = mdb_env_create(&store->env);

	if (!code)
		code = mdb_env_set_maxdbs(store->env, STORE_TABLES);
	if (!code)
		code = mdb_env_set_mapsize(store->env, store->map_bytes);
	if (!code)
		code = mdb_env_open(store->env, store->folder, MDB_NOTLS, 0640);
	if (!code)
		code = mdb_env_info(store->env, &info);
	if (code)
		return lmdb_failed(err, store, code, "open");
	store->map_bytes = info.me_mapsize;
	if (store->map_bytes_max < store->map_bytes)
		store->map_bytes_max = store->map_bytes;
	close_data_on_exec();
	mdb_reader_check(store->env, &dead);
	return open_tables(store, err);
}

int store_open(const struct store_options *options, struct store **ret_store, struct err *err)
{
	CLEANUP(store_cleanup) struct store *store = must_calloc(1, sizeof(*store));

	store->map_bytes = options->map_bytes ? options->map_bytes : MAP_BYTES_DEFAULT;
	store->map_bytes_max =
		options->map_bytes_max ? options->map_bytes_max : MAP_BYTES_MAX_DEFAULT;
	store->reserve_bytes = options->reserve_bytes ? options->reserve_bytes : RESERVE_DEFAULT;
	store->folder = must_strdup(options->folder);
	bug_if(pthread_rwlock_init(&store->remap, NULL));
	store->folder_fd = open(store->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (store->folder_fd < 0)
		return err_set_errno(err, errno, "open the state folder '%s'", store->folder);
	if (flock(store->folder_fd, LOCK_EX | LOCK_NB))
		return err_set(err, "the store in '%s' is open already", store->folder);
	if (refuse_network_file_system(store, err) || open_environment(store, err))
		return -1;
	if (fsync(store->folder_fd))
		return err_set_errno(err, errno, "flush the state folder '%s'", store->folder);
	if (!store_restore_reserve(store))
		log_warn("the store in '%s' has no reserve: its file system is nearly full",
			store->folder);
	*ret_store = steal(&store);
	return 0;
}

void store_close(struct store *store)
{
	if (!store)
		return;
	if (store->env)
		mdb_env_close(store->env);
	if (store->folder_fd >= 0)
		close(store->folder_fd);
	pthread_rwlock_destroy(&store->remap);
	free(store->folder);
	free(store);
}

uint64_t store_map_bytes(const struct store *store)
{
	return store->map_bytes;
}

/* ---- the reserve */

bool store_release_reserve(struct store *store)
{
	bool released = !unlinkat(store->folder_fd, RESERVE_FILE, 0);

	if (!store->map_reserve_used) {
		store->map_reserve_used = true;
		released = true;
	}
	return released;
}

/* Blocks that nobody else can take.  The file appears under its name only when it is whole. */
static bool restore_disk_reserve(struct store *store)
{
	CLEANUP_CLOSE int fd = -1;
	struct stat found;

	if (!fstatat(store->folder_fd, RESERVE_FILE, &found, AT_SYMLINK_NOFOLLOW) &&
		(uint64_t)found.st_blocks * 512 >= store->reserve_bytes)
		return true;
	fd = openat(store->folder_fd, RESERVE_FILE ".new",
		O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0640);
	if (fd >= 0 && !posix_fallocate(fd, 0, (off_t)store->reserve_bytes) &&
		!renameat(store->folder_fd, RESERVE_FILE ".new", store->folder_fd, RESERVE_FILE))
		return true;
	unlinkat(store->folder_fd, RESERVE_FILE ".new", 0);
	return false;
}

static uint64_t bytes_in_use(const struct store *store)
{
	MDB_envinfo info;
	MDB_stat found;

	bug_if(mdb_env_info(store->env, &info) || mdb_env_stat(store->env, &found));
	return (info.me_last_pgno + 1) * (uint64_t)found.ms_psize;
}

/* ---- the map's size */

static int set_map_bytes(struct store *store, uint64_t bytes, struct err *err)
{
	int code;

	pthread_rwlock_wrlock(&store->remap);
	code = mdb_env_set_mapsize(store->env, bytes);
	pthread_rwlock_unlock(&store->remap);
	if (code)
		return lmdb_failed(err, store, code, "enlarge the map of");
	store->map_bytes = bytes;
	return 0;
}

/* Pages within the map that hold nothing any more: LMDB's database 0 lists them, a count before each list. */
static uint64_t bytes_freed(const struct store *store)
{
	MDB_txn *transaction;
	MDB_cursor *cursor;
	MDB_val key, bytes;
	MDB_stat found;
	uint64_t pages = 0;

	if (mdb_env_stat(store->env, &found) ||
		mdb_txn_begin(store->env, NULL, MDB_RDONLY, &transaction))
		return 0;
	if (!mdb_cursor_open(transaction, 0, &cursor)) {
		while (!mdb_cursor_get(cursor, &key, &bytes, MDB_NEXT))
			pages += *(const size_t *)bytes.mv_data;
		mdb_cursor_close(cursor);
	}
	mdb_txn_abort(transaction);
	return pages * found.ms_psize;
}

/* Gives the map its ordinary size again if that holds everything. */
static bool restore_map_reserve(struct store *store)
{
	struct err err;

	if (!store->map_reserve_used)
		return true;
	if (bytes_in_use(store) > store->map_bytes_max)
		return bytes_freed(store) >= store->reserve_bytes;
	if (store->map_bytes > store->map_bytes_max &&
		set_map_bytes(store, store->map_bytes_max, &err))
		return false;
	store->map_reserve_used = false;
	return true;
}

bool store_restore_reserve(struct store *store)
{
	return restore_disk_reserve(store) && restore_map_reserve(store);
}

/* 0: the map is larger now; STORE_FULL: it can't be. */
static int grow_map(struct store *store, struct err *err)
{
	uint64_t limit = store->map_bytes_max;
	uint64_t wanted = store->map_bytes * 2;

	if (store->map_reserve_used)
		limit += store->reserve_bytes;
	if (wanted > limit)
		wanted = limit;
	if (wanted <= store->map_bytes)
		return STORE_FULL;
	return set_map_bytes(store, wanted, err);
}

/* ---- changing */

struct store_batch *store_batch_new(void)
{
	return must_calloc(1, sizeof(struct store_batch));
}

void store_batch_free(struct store_batch *batch)
{
	if (!batch)
		return;
	for (size_t i = 0; i < batch->count; i++)
		free(batch->changes[i].bytes);
	free(batch->changes);
	free(batch);
}

void store_batch_take(struct store_batch *batch, struct effect *effect)
{
	bug_if(effect->key_length == 0 || effect->key_length > sizeof(effect->key));
	bug_if((unsigned)effect->table >= STORE_TABLES);
	if (batch->count == batch->capacity) {
		batch->capacity = batch->capacity ? batch->capacity * 2 : 4;
		batch->changes =
			must_realloc(batch->changes, batch->capacity, sizeof(*batch->changes));
	}
	batch->changes[batch->count++] = *effect;
	batch->bytes += sizeof(*effect) + effect->length;
	effect->bytes = NULL;
	effect->length = 0;
}

static int delete_prefix(MDB_txn *transaction, MDB_dbi table, const struct effect *change)
{
	MDB_cursor *cursor;
	int code = mdb_cursor_open(transaction, table, &cursor);

	if (code)
		return code;
	while (!code) {
		MDB_val key = {change->key_length, (void *)change->key};
		MDB_val bytes;

		code = mdb_cursor_get(cursor, &key, &bytes, MDB_SET_RANGE);
		if (!code && (key.mv_size < change->key_length ||
				     memcmp(key.mv_data, change->key, change->key_length) != 0))
			code = MDB_NOTFOUND;
		if (!code)
			code = mdb_cursor_del(cursor, 0);
	}
	mdb_cursor_close(cursor);
	return code == MDB_NOTFOUND ? 0 : code;
}

static int apply_change(struct store *store, MDB_txn *transaction, const struct effect *change)
{
	MDB_dbi table = store->tables[change->table];
	MDB_val key = {change->key_length, (void *)change->key};
	MDB_val bytes = {change->length, change->bytes};
	int code;

	switch (change->kind) {
	case EFFECT_STORE_PUT:
		return mdb_put(transaction, table, &key, &bytes, 0);
	case EFFECT_STORE_DELETE:
		code = mdb_del(transaction, table, &key, NULL);
		return code == MDB_NOTFOUND ? 0 : code;
	case EFFECT_STORE_DELETE_PREFIX:
		return delete_prefix(transaction, table, change);
	case EFFECT_SEND_WORKER:
	case EFFECT_SEND_IMAGED:
	case EFFECT_REPLY:
	case EFFECT_PUBLISH:
	case EFFECT_QUERY_EVENTS:
	case EFFECT_FORGET_PEER:
		break;
	}
	bug_if(true); /* a batch holds only changes of the store */
	return EINVAL;
}

/* LMDB's code for the whole transaction. */
static int try_to_apply(struct store *store, const struct store_batch *list)
{
	MDB_txn *transaction;
	int code = mdb_txn_begin(store->env, NULL, 0, &transaction);

	if (code)
		return code;
	for (const struct store_batch *batch = list; batch && !code; batch = batch->next)
		for (size_t i = 0; i < batch->count && !code; i++)
			code = apply_change(store, transaction, &batch->changes[i]);
	if (!code)
		return mdb_txn_commit(transaction);
	mdb_txn_abort(transaction);
	return code;
}

/* LMDB calls a write cut short by a full disk EIO. */
static bool disk_is_full(const struct store *store, int code)
{
	struct statvfs found;

	if (code == ENOSPC || code == EDQUOT)
		return true;
	return code == EIO && !fstatvfs(store->folder_fd, &found) &&
	       (uint64_t)found.f_bavail * found.f_frsize < FEW_FREE_BYTES;
}

int store_apply(struct store *store, const struct store_batch *list, struct err *err)
{
	if (bytes_in_use(store) > store->map_bytes / 10 * 7 && grow_map(store, err) < 0)
		return -1;
	for (;;) {
		int code = try_to_apply(store, list);
		int grown;

		if (code == 0)
			return STORE_DONE;
		if (disk_is_full(store, code)) {
			err_set_errno(err, ENOSPC, "write the store in '%s'", store->folder);
			return STORE_FULL;
		}
		if (code != MDB_MAP_FULL)
			return lmdb_failed(err, store, code, "write");
		grown = grow_map(store, err);
		if (grown == STORE_FULL)
			err_set(err, "the store in '%s' has reached its greatest size, %llu bytes",
				store->folder, (unsigned long long)store->map_bytes);
		if (grown != 0)
			return grown;
	}
}

/* ---- reading */

int store_view_open(
	struct store *store, enum store_table table, struct store_view **ret_view, struct err *err)
{
	struct store_view *view = must_calloc(1, sizeof(*view));
	int code;

	view->store = store;
	pthread_rwlock_rdlock(&store->remap);
	code = mdb_txn_begin(store->env, NULL, MDB_RDONLY, &view->transaction);
	if (!code)
		code = mdb_cursor_open(view->transaction, store->tables[table], &view->cursor);
	if (code) {
		store_view_close(view);
		return lmdb_failed(err, store, code, "read");
	}
	*ret_view = view;
	return 0;
}

void store_view_close(struct store_view *view)
{
	if (!view)
		return;
	if (view->cursor)
		mdb_cursor_close(view->cursor);
	if (view->transaction)
		mdb_txn_abort(view->transaction);
	pthread_rwlock_unlock(&view->store->remap);
	free(view);
}

static int find(struct store_view *view, MDB_val key, MDB_cursor_op how,
	struct store_record *ret_record, struct err *err)
{
	MDB_val bytes;
	int code = mdb_cursor_get(view->cursor, &key, &bytes, how);

	if (code == MDB_NOTFOUND)
		return 0;
	if (code)
		return lmdb_failed(err, view->store, code, "read");
	*ret_record = (struct store_record){
		.key = key.mv_data,
		.key_length = key.mv_size,
		.bytes = bytes.mv_data,
		.length = bytes.mv_size,
	};
	return 1;
}

int store_view_seek(struct store_view *view, const void *key, size_t length,
	struct store_record *ret_record, struct err *err)
{
	MDB_val first = {length, (void *)(uintptr_t)key};

	return find(view, first, length ? MDB_SET_RANGE : MDB_FIRST, ret_record, err);
}

int store_view_next(struct store_view *view, struct store_record *ret_record, struct err *err)
{
	return find(view, (MDB_val){0}, MDB_NEXT, ret_record, err);
}

int store_view_last(struct store_view *view, struct store_record *ret_record, struct err *err)
{
	return find(view, (MDB_val){0}, MDB_LAST, ret_record, err);
}
