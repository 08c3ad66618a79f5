/* A range under lease, in Promela: the part of Sluice where a late worker could ruin a guest's disk.
 *
 * One guest cluster X over a base.  A worker joins the leaf (it holds a lock byte while it may write there); imaged reserves a host
 * cluster for it, the broker sends the order, the worker copies the base into it (whenever it likes: it may sleep between any two
 * steps) and reports, the broker asks for the commit; at last imaged finishes: it looks at its own table, switches the header, and
 * the broker publishes the end.  Meanwhile the guest writes X, the user cancels the job and starts another, messages are lost and
 * doubled, leases are revoked and given out again, imaged restarts and forgets what it kept in memory, workers die and are replaced,
 * leave the leaf and join it again.
 *
 * Checked in every state:
 *   SEEN_RIGHT    the guest reads what it last wrote, or the base if it never wrote; without a backing file X must be mapped
 *   FINISH_RIGHT  the end of a job is published only when the header was switched
 *   CANCEL_RIGHT  no report changes the map while no job is open
 *
 * tests/model/run.py runs it: no error without a fault, and an error with each of the faults, -DMUTANT=n:
 *   1 sent before it is on disk as in use       7 an order taken twice
 *   2 commit over a touched cluster             8 a worker lets go of the leaf while it still copies
 *   3 reported before it is copied              9 reserved for a worker that has not joined
 *   4 a revoked lease's cluster is free at once 10 a report after the cancel is still committed
 *   5 quarantine ends without proof            11 the end is published before the header is switched
 *   6 leaks reclaimed without a look at locks  12 finish takes the broker's word instead of walking the table
 *
 * What the code calls these steps: docs/life_of_a_copy.md. */
#ifndef MUTANT
#define MUTANT 0
#endif
#define CLUSTERS 3          /* host clusters, 1..3; 0 means none */
#define WORKERS  2
#ifndef LEASES
#define LEASES   2          /* reservations in one history */
#endif
#ifndef JOINS
#define JOINS    3          /* joins in one history */
#endif
#ifndef WRITES
#define WRITES   1          /* guest writes */
#endif

#define JUNK 0
#define BASE 1              /* the base's content; guest writes are 2 and up */

byte content[CLUSTERS + 1]; /* what a host cluster holds */
bool in_use[CLUSTERS + 1];  /* its refcount on disk: survives every process */
byte map = 0;               /* where X lives; 0: read through to the base.  In the file: survives imaged */
byte written = BASE;        /* what the guest must read */
bool backed = true;         /* the header on disk names the base */
bool published = false;     /* BLOCK_JOB_COMPLETED is out */
bool bad_commit = false;    /* a report changed the map while no job was open */

/* the broker's ledger: survives in the store */
bool job_open = true;
bool ledger_done = false;   /* it believes that X is in the leaf */

/* imaged's memory: lost when it dies */
byte lease_cluster[LEASES + 1];  /* destination of a lease; 0: not open */
bool touched[LEASES + 1];        /* the guest wrote X since this reservation */
byte quarantine[LEASES + 1];     /* cluster of a lease that was revoked or superseded, by lease */
byte join_now[WORKERS + 1];      /* the join that imaged knows of this worker; 0 none */
/* drawn by imaged, never repeated (incarnation and counter), so not lost */
byte next_lease = 1;
byte next_join = 1;
byte owner[LEASES + 1];          /* the worker a lease went to */
byte lease_join[LEASES + 1];     /* under which join */

/* what a worker holds; dies with it */
byte held_join[WORKERS + 1];     /* the join whose lock byte its open file holds; the kernel lets go when it dies */
byte order_lease[WORKERS + 1];   /* an order taken up; 0 none */
byte order_cluster[WORKERS + 1];
bool copied[WORKERS + 1];
bool seen1[LEASES + 1]; bool seen2[LEASES + 1];  /* lease ids a worker has taken up */

byte deaths = 0, kills = 0, net = 0, cancels = 0; /* net: messages lost or doubled */

chan orders  = [2] of { byte, byte, byte, byte };      /* worker, lease, cluster, join */
chan reports = [2] of { byte };                  /* lease */

#define SEEN_RIGHT   (map == 0 -> (written == BASE && backed) : content[map] == written)
#define FINISH_RIGHT (!published || !backed)
#define CANCEL_RIGHT (!bad_commit)

inline pick_free(c) {
	c = 0;
	if
	:: !in_use[1] -> c = 1
	:: !in_use[2] -> c = 2
	:: !in_use[3] -> c = 3
	:: else -> skip
	fi
}

inline saw(w, l) { if :: w == 1 -> seen1[l] = true :: else -> seen2[l] = true fi }
#define HAS_SEEN(w, l) (w == 1 -> seen1[l] : seen2[l])
/* nobody but workers that this imaged knows can write: each lock byte is free or of a join made since its start */
#define NO_STRANGER ((held_join[1] == 0 || held_join[1] == join_now[1]) && (held_join[2] == 0 || held_join[2] == join_now[2]))

inline is_kept(c, yes) { /* c is named by the map, a lease or the quarantine */
	yes = (c == map);
	i = 1;
	do
	:: i <= LEASES -> yes = yes || lease_cluster[i] == c || quarantine[i] == c; i++
	:: else -> break
	od;
	i = 0
}

inline close_leases() {
	i = 1;
	do
	:: i <= LEASES ->
		if
		:: lease_cluster[i] != 0 -> quarantine[i] = lease_cluster[i]; lease_cluster[i] = 0
		:: else -> skip
		fi;
		i++
	:: else -> break
	od;
	i = 0
}

/* imaged and broker, one step at a time; each step is atomic in one process, and they may fail between steps */
active proctype system() {
	byte c, l, w, i, j; bool yes;
	do
	/* join: the worker opened and locked the leaf, imaged tested the byte.  Not while it still copies for an older join */
	:: atomic { next_join <= JOINS && backed && !published ->
		if :: w = 1 :: next_join > 1 -> w = 2 fi; /* workers are alike: the first join is worker 1's */
		if
		:: held_join[w] == 0 && order_lease[w] == 0 -> held_join[w] = next_join; join_now[w] = next_join; next_join++
		:: else -> skip
		fi; w = 0 }
	/* reserve and send: on disk as in use before the worker hears of it */
	:: atomic { next_lease <= LEASES && map == 0 && backed && job_open ->
		if :: w = 1 :: next_lease > 1 -> w = 2 fi;
#if MUTANT != 9
		if
		:: join_now[w] != 0 -> pick_free(c)
		:: else -> c = 0
		fi;
#else
		pick_free(c);
#endif
		if
		:: c != 0 ->
			l = next_lease; next_lease++;
#if MUTANT != 1
			in_use[c] = true;
#endif
			content[c] = JUNK;
			lease_cluster[l] = c; touched[l] = false;
			owner[l] = w; lease_join[l] = join_now[w];
			if
			:: nfull(orders) -> orders!w, l, c, join_now[w]
			:: net < 1 -> net++        /* the order is lost */
			fi
		:: else -> skip
		fi; l = 0; c = 0; w = 0 }
	/* an order is doubled on the way (a broker that sends again) */
	:: atomic { nempty(orders) && nfull(orders) && net < 1 -> net++; orders?w, l, c, j; orders!w, l, c, j; orders!w, l, c, j; w = 0; l = 0; c = 0; j = 0 }
	/* a report arrives: commit, only where nothing touched X */
	:: atomic { nempty(reports) -> reports?l;
#if MUTANT == 12
		ledger_done = true;
#endif
		if
		:: lease_cluster[l] != 0 ->
			c = lease_cluster[l]; lease_cluster[l] = 0;
			if
#if MUTANT == 2
			:: true ->
#else
			:: map == 0 && !touched[l] ->
#endif
				map = c; owner[l] = 0; lease_join[l] = 0; touched[l] = false;
#if MUTANT == 12
				ledger_done = true;
#endif
				bad_commit = bad_commit || !job_open
			:: else -> quarantine[l] = c
			fi
		:: else ->
			skip                         /* unknown or closed: ignored */
		fi; l = 0; c = 0 }
	/* the report is lost */
	:: atomic { nempty(reports) && net < 1 -> net++; reports?l; l = 0 }
	/* a lease runs out: its cluster goes to quarantine */
	:: atomic { i = 1;
		do :: i <= LEASES && lease_cluster[i] == 0 -> i++ :: else -> break od;
		if
		:: i <= LEASES ->
#if MUTANT == 4
			in_use[lease_cluster[i]] = false; lease_cluster[i] = 0
#else
			quarantine[i] = lease_cluster[i]; lease_cluster[i] = 0
#endif
		:: else -> skip
		fi; i = 0 }
	/* quarantine ends: the lock byte of the join it was made under is free, so no late write can come; an order still on the way
	 * names a join that its worker does not hold any more */
	:: atomic { i = 1;
		do :: i <= LEASES && quarantine[i] == 0 -> i++ :: else -> break od;
		if
#if MUTANT == 5
		:: i <= LEASES ->
#else
		:: i <= LEASES && held_join[owner[i]] != lease_join[i] ->
#endif
			if :: quarantine[i] != map -> in_use[quarantine[i]] = false; content[quarantine[i]] = JUNK :: else -> skip fi;
			quarantine[i] = 0; owner[i] = 0; lease_join[i] = 0; touched[i] = false
		:: else -> skip
		fi; i = 0 }
	/* imaged dies and starts again: leases, quarantine and joins are forgotten, the disk is not */
	:: atomic { deaths < 1 && !published -> deaths++;
		i = 1;
		do :: i <= LEASES -> lease_cluster[i] = 0; touched[i] = false; quarantine[i] = 0; owner[i] = 0; lease_join[i] = 0; i++ :: else -> break od; i = 0;
		join_now[1] = 0; join_now[2] = 0 }
	/* leaks are reclaimed once no stranger can write */
#if MUTANT == 6
	:: atomic { deaths == 1 ->
#else
	:: atomic { deaths == 1 && NO_STRANGER ->
#endif
		c = 1;
		do
		:: c <= CLUSTERS ->
			is_kept(c, yes);
			if :: !yes -> in_use[c] = false; content[c] = JUNK :: else -> skip fi;
			c++
		:: else -> break
		od; c = 0; yes = false }
	/* cancel: the job is closed and its leases revoked; a new job may be started later */
	:: atomic { job_open && backed && cancels < 1 -> cancels++; job_open = false;
#if MUTANT != 10
		close_leases();
#endif
		}
	:: atomic { !job_open && backed -> job_open = true }
	/* finish: imaged walks its own table, then switches the header; it may die in between, and is asked again */
#if MUTANT == 12
	:: atomic { job_open && backed && ledger_done -> backed = false }
#else
	:: atomic { job_open && backed && map != 0 -> backed = false }
#endif
	/* the answer arrived: stored, then published.  Asked again after a restart, imaged compares the header: done is done */
#if MUTANT == 11
	:: atomic { job_open && map != 0 && !published -> published = true }
#else
	:: atomic { job_open && !backed && !published -> published = true }
#endif
	od
}

/* the guest writes X; each write is answered when it is done */
active proctype guest() {
	byte value = 2, c, i;
	do
	:: value <= 1 + WRITES ->
		atomic {
			if
			:: map != 0 -> content[map] = value; written = value; value++
			:: else ->
				pick_free(c);
				if
				:: c != 0 ->
					in_use[c] = true; content[c] = value; map = c; written = value; value++;
					i = 1;
					do :: i <= LEASES -> touched[i] = true; i++ :: else -> break od; i = 0
				:: else -> break                 /* no space: the write is refused */
				fi; c = 0
			fi
		}
	:: value > 1 + WRITES -> break
	od
}

proctype worker(byte w) {
	byte l, c, j;
	do
	/* take up an order: never one seen before, only under the join that it holds */
	:: atomic { order_lease[w] == 0 && orders?[eval(w), l, c, j] ->
		orders?eval(w), l, c, j;
		if
#if MUTANT == 7
		:: held_join[w] == j -> order_lease[w] = l; order_cluster[w] = c; copied[w] = false
#elif MUTANT == 9
		:: !HAS_SEEN(w, l) -> saw(w, l); order_lease[w] = l; order_cluster[w] = c; copied[w] = false
#else
		:: !HAS_SEEN(w, l) && held_join[w] == j && held_join[w] != 0 -> saw(w, l); order_lease[w] = l; order_cluster[w] = c; copied[w] = false
#endif
		:: else -> skip
		fi; l = 0; c = 0; j = 0 }
	/* copy: the late write, whenever it comes */
	:: atomic { order_lease[w] != 0 && !copied[w] -> content[order_cluster[w]] = BASE; copied[w] = true }
	/* report, and never write under this lease again */
#if MUTANT == 3
	:: atomic { order_lease[w] != 0 ->
#else
	:: atomic { order_lease[w] != 0 && copied[w] ->
#endif
		if :: nfull(reports) -> reports!order_lease[w] :: skip fi;
		order_lease[w] = 0; order_cluster[w] = 0; copied[w] = false }
	/* leave: the leaf is closed, the lock byte free; only when nothing is being copied */
#if MUTANT == 8
	:: atomic { held_join[w] != 0 -> held_join[w] = 0 }
#else
	:: atomic { held_join[w] != 0 && order_lease[w] == 0 -> held_join[w] = 0 }
#endif
	/* killed; what takes its place is another incarnation, which holds no join and takes up no order of the old one */
	:: atomic { kills < 1 -> kills++; order_lease[w] = 0; order_cluster[w] = 0; copied[w] = false; held_join[w] = 0 }
	od
}

init { atomic { run worker(1); run worker(2) } }

active proctype monitor() {
	atomic { !(SEEN_RIGHT && FINISH_RIGHT && CANCEL_RIGHT) -> assert(SEEN_RIGHT); assert(FINISH_RIGHT); assert(CANCEL_RIGHT) }
}
