/* The protocol of request, response, withdrawal, expiry, crash and restart, for one host, checked exhaustively by spin.
 *
 * Every transition of the code is an event. The line that defines it names the function that makes it; a test has the
 * real functions traced, and each trace accepted here. docs/protocol-model.md says what is modelled and what is not.
 *
 * Bounds, to be set with -D: requests REQUESTS (at most 3), watchers WATCHERS, and how often each fault may happen:
 * CRASHES (of a watcher), CUTS (of the power), RESTORES (by a person), KILLS (of an agent, or of a restore), STOPS (an
 * agent told to end early), REPLAYS, FAULTS (a drive refuses, or the deadline passes without an answer), EXPIRES.
 * Mutants, each to be found: -DMUTANT_...
 */
#ifndef REQUESTS
#define REQUESTS 2
#endif
#ifndef WATCHERS
#define WATCHERS 1
#endif
#ifndef CRASHES
#define CRASHES 1
#endif
#ifndef CUTS
#define CUTS 0
#endif
#ifndef RESTORES
#define RESTORES 1
#endif
#ifndef KILLS
#define KILLS 0
#endif
#ifndef STOPS
#define STOPS 1
#endif
#ifndef REPLAYS
#define REPLAYS 0
#endif
#ifndef FAULTS
#define FAULTS 0
#endif
#ifndef EXPIRES
#define EXPIRES 1
#endif

/* Events of the agent, nvmefence/agents. */
#define EV_ASK 1              /* nvmefence.spool.files:_write_and_rename -- the request is visible */
#define EV_ASKED 2            /* nvmefence.spool.files:_settle -- the request is durable */
#define EV_SUCCEED 3          /* nvmefence.agents.waiting:judge -- exit 0 */
#define EV_FAIL 4             /* nvmefence.agents.waiting:judge -- the response says that it failed */
#define EV_WITHDRAW 5         /* nvmefence.agents.exchange:withdraw -- the request is gone */
#define EV_WITHDRAWN 6        /* nvmefence.agents.exchange:settle -- durably so */

/* Events of the watcher, nvmefence/watcher. */
#define EV_START 10           /* nvmefence.watcher.desk:Desk._open_requests -- it alone serves the directory */
#define EV_TAKE 11            /* nvmefence.watcher.passes:Passes.take -- a request is read, and to be served */
#define EV_JOIN 12            /* nvmefence.watcher.passes:Passes.take -- the same, and joins a fence under way */
#define EV_TOO_LATE 13        /* nvmefence.watcher.service:Watcher._sort -- read, and expired */
#define EV_REPEAT 14          /* nvmefence.watcher.delivery:Delivery.dispose -- read, and answered before */
#define EV_BEGIN 15           /* nvmefence.watcher.passes:Passes._begin */
#define EV_LOCK 16            /* nvmefence.records.beside:Beside.enter -- restores are kept away */
#define EV_WANTED 17          /* nvmefence.watcher.passes:Passes._wanted -- somebody waits for it still */
#define EV_UNWANTED 18        /* nvmefence.watcher.passes:Passes._wanted -- all have withdrawn their requests */
#define EV_READ 19            /* nvmefence.fencing.fence:_DriveFence._read -- who is attached */
#define EV_CUT 20             /* nvmefence.fencing.cutting:Cutting.cut -- the detach is on its way */
#define EV_CONFIRMED 21       /* nvmefence.watcher.passes:Passes._fence -- the fence is proven */
#define EV_UNCONFIRMED 22     /* nvmefence.watcher.passes:Passes._fence -- it ended without a proof */
#define EV_RECORD 23          /* nvmefence.records.recorder:Recorder.finish -- what was taken is on record, durably */
#define EV_ANSWER 24          /* nvmefence.watcher.service:Watcher._pass_ended -- everyone gets an answer */
#define EV_AUDIT 25           /* nvmefence.watcher.audit:append -- the audit line is written */
#define EV_AUDITED 26         /* nvmefence.watcher.audit:append -- it is durable */
#define EV_VISIBLE 27         /* nvmefence.spool.files:_write_and_rename -- the response is visible */
#define EV_DURABLE 28         /* nvmefence.spool.files:_settle -- and durable */
#define EV_REMOVE 29          /* nvmefence.spool.files:remove -- the request is gone */
#define EV_REMOVED 30         /* nvmefence.spool.files:_settle -- durably so */
#define EV_UNLOCK 31          /* nvmefence.records.beside:Beside.end -- a confirmed fence is answered: restores may be */

/* Events of a restore, nvmefence/restoring.py. */
#define EV_RESTORE 40         /* nvmefence.records.hostlock:RestoreLock.__init__ -- nobody fences the host */
#define EV_MARK 41            /* nvmefence.restoring:Restoring._mark -- on record it is fenced no longer */
#define EV_PERMIT 42          /* nvmefence.fencing.restore:_DriveRestore._send -- no fence is wanted: attach is sent */
#define EV_DENIED 43          /* nvmefence.records.hostlock:RestoreLock.wanted -- a fence has begun: gives up */
#define EV_ARCHIVE 44         /* nvmefence.spool.directory:ResponseDirectory.archive_fences */
#define EV_CLEAR 45           /* nvmefence.records.store:Store.update -- the record is put away */
#define EV_RESTORED 46        /* nvmefence.records.hostlock:RestoreLock.end */

/* Events of a drive, nvmefence/nvme. */
#define EV_DETACH 50          /* nvmefence.nvme.emulated:EmulatedTransport.run -- the drive detaches */
#define EV_ATTACH 51          /* nvmefence.nvme.emulated:EmulatedTransport.run -- the drive attaches */

/* Events of the world, which no function makes. */
#define EV_REFUSE 60          /* world -- a drive refuses to detach */
#define EV_EXPIRE 61          /* world -- a request is too old, and its agent's time is over */
#define EV_STOP 62            /* world -- an agent is told to end before its time */
#define EV_KILL 63            /* world -- an agent is killed */
#define EV_CRASH 64           /* world -- a watcher is killed */
#define EV_POWER 65           /* world -- the power is cut: what is not durable may be lost or not */
#define EV_REPLAY 66          /* world -- the file of an answered request is put there again */
#define EV_DIE 67             /* world -- a restore is killed */

/* With -DTRACE, only what a trace says may happen, see traces.h, which the test writes. */
#ifdef TRACE
c_decl {
\#include "traces.h"
}
byte which;
short place;
short next;
#define CODE(event, w, r) ((event) * 16 + (w) * 4 + (r))
#define STEP(event, w, r) (next == CODE(event, w, r))
#define TOOK(event, w, r) c_code { now.place++; now.next = traces[now.which][now.place]; \
	got_to(now.which, now.place); }
#else
#define STEP(event, w, r) true
#define TOOK(event, w, r) printf("%d %d %d\n", event, w, r)
#endif
#define ON(event, w, r, guard) ((guard) && STEP(event, w, r)) -> TOOK(event, w, r)

#if REQUESTS == 1
#define FOR_EACH(X, w) :: X(w, 0)
#define ALL(X) X(0)
#define ALL_OF(X, w) X(w, 0)
#elif REQUESTS == 2
#define FOR_EACH(X, w) :: X(w, 0) :: X(w, 1)
#define ALL(X) X(0); X(1)
#define ALL_OF(X, w) X(w, 0); X(w, 1)
#else
#define FOR_EACH(X, w) :: X(w, 0) :: X(w, 1) :: X(w, 2)
#define ALL(X) X(0); X(1); X(2)
#define ALL_OF(X, w) X(w, 0); X(w, 1); X(w, 2)
#endif
#if WATCHERS == 1
#define SOME_WATCHER(a) (a[0])
#else
#define SOME_WATCHER(a) (a[0] || a[1])
#endif

/* What is in files. A power cut leaves what is visible or what is durable. */
#define NONE 0
#define NO 1       /* a response with success: false, and its audit line */
#define YES 2      /* success: true */
#define AWAY 3     /* archived: it does not say any more that the host is fenced */
byte request[REQUESTS];
byte request_durable[REQUESTS];
byte response[REQUESTS];
byte response_durable[REQUESTS];
byte audit[REQUESTS];
byte audit_durable[REQUESTS];

/* The record of the host. It is written durably in one step, for nobody looks at it while it is written. */
#define PART 1     /* something was taken; it does not count as fenced */
#define FENCED 2
byte record;

/* The drive. */
bool attached = true;
byte flight;       /* whose detach is on its way: a watcher's number and 1, 0 for none */

/* Locks of the kernel; they end with their process. */
bool wanted[WATCHERS];    /* FenceLock: a restore that sees it gives up */
bool held[WATCHERS];      /* FenceLock: no restore is there */
bool kept[WATCHERS];      /* the same, after the fence, until its answers are visible */
bool restoring;           /* RestoreLock */
bool granted;             /* an attach is on its way */

/* The memory of a watcher. */
#define IDLE 0            /* no fence */
#define GATHERED 1        /* requests that one look took in */
#define BEGUN 2
#define LOCKED 3
#define CHECKED 4
#define ATTACHED 5        /* a read showed it */
#define SENT 6
#define CUT 7
#define WAITING 8         /* clean, and a restore is not over */
#define CLEAN 9           /* a read showed nothing, and nobody could attach meanwhile */
#define ENDED 10
#define RECORDED 11
bool up[WATCHERS];
byte fence[WATCHERS];
bool proven[WATCHERS];
bool took[WATCHERS];      /* this fence has sent a detach */

#define UNSEEN 0          /* not in hand */
#define TICKET 1          /* one of those for whom a fence is begun */
#define JOINED 2
#define TO_AUDIT 3
#define AUDITING 4
#define TO_SHOW 5
#define SHOWN 6
#define TO_REMOVE 7
#define REMOVING 8
#define AT(w, r) ((w) * REQUESTS + (r))
byte hand[WATCHERS * REQUESTS];
bool good[WATCHERS * REQUESTS];   /* the answer */

/* Agents, one for each request. */
#define NEW 0
#define WROTE 1
#define WAITS 2
#define LEAVES 3          /* to withdraw */
#define LEFT 4            /* withdrawn, not durably */
#define OK 5
#define FAILED 6
#define KILLED 7
byte agent[REQUESTS];

/* A restore. */
#define R_LOCKED 1
#define R_ARCHIVED 2
#define R_MARKED 3
#define R_GRANTED 4
#define R_GIVEN 5
#define R_OVER 6
byte restore;
bool unchanged;           /* the record is as the restore marked it, and counted as fenced before */

/* What nobody knows but the properties. */
bool expired[REQUESTS];
bool stale[REQUESTS];        /* expired, or withdrawn */
bool behind[REQUESTS];       /* the detach that is on its way is for it */
bool readmitted[REQUESTS];   /* since it was stale, a restore gave the host something */
bool regiven[REQUESTS];      /* since its response was visible */
bool torn;                   /* a restore died, so the record may say less than is so */
bool trouble;                /* something happened that may make a fence fail */
byte crashes = CRASHES;
byte cuts = CUTS;
byte restores = RESTORES;
byte kills = KILLS;
byte stops = STOPS;
byte replays = REPLAYS;
byte faults = FAULTS;
byte expires = EXPIRES;

#if REQUESTS == 1
#define ENTITLED (ENTITLES(0))
#define SOMEBODY_WAITS(w) (TICKETED(w, 0) && request[0])
#define IN_TIME(w) (hand[AT(w, 0)] == TICKET && !expired[0])
#define UNDELIVERED(w) (DUE(w, 0))
#elif REQUESTS == 2
#define ENTITLED (ENTITLES(0) || ENTITLES(1))
#define SOMEBODY_WAITS(w) ((TICKETED(w, 0) && request[0]) || (TICKETED(w, 1) && request[1]))
#define IN_TIME(w) ((hand[AT(w, 0)] == TICKET && !expired[0]) || (hand[AT(w, 1)] == TICKET && !expired[1]))
#define UNDELIVERED(w) (DUE(w, 0) || DUE(w, 1))
#else
#define ENTITLED (ENTITLES(0) || ENTITLES(1) || ENTITLES(2))
#define SOMEBODY_WAITS(w) ((TICKETED(w, 0) && request[0]) || (TICKETED(w, 1) && request[1]) \
	|| (TICKETED(w, 2) && request[2]))
#define IN_TIME(w) ((hand[AT(w, 0)] == TICKET && !expired[0]) || (hand[AT(w, 1)] == TICKET && !expired[1]) \
	|| (hand[AT(w, 2)] == TICKET && !expired[2]))
#define UNDELIVERED(w) (DUE(w, 0) || DUE(w, 1) || DUE(w, 2))
#endif
#define TICKETED(w, r) (hand[AT(w, r)] == TICKET || hand[AT(w, r)] == JOINED)
/* Invariant 6: a cut is for some request after whose end nobody was readmitted. */
#define ENTITLES(r) (behind[r] && !readmitted[r])
#define STAND_BEHIND(w, r) behind[r] = TICKETED(w, r)
#define DUE(w, r) (hand[AT(w, r)] >= TO_AUDIT && good[AT(w, r)])

inline detached(w) {
	assert(!attached || ENTITLED);
	attached = false
}

inline given() {
	attached = true;
	granted = false
}

/* ------------------------------------------------------------------ the agent */

proctype Agent(byte r) {
end:	do
	:: d_step { ON(EV_ASK, 0, r, agent[r] == NEW); request[r] = 1; agent[r] = WROTE }
	:: d_step { ON(EV_ASKED, 0, r, agent[r] == WROTE); request_durable[r] = request[r]; agent[r] = WAITS }
	:: d_step { ON(EV_SUCCEED, 0, r, agent[r] == WAITS && response[r] == YES);
		/* Invariant 1, as Pacemaker sees it. */
		assert(!attached || regiven[r]);
		agent[r] = OK }
	:: d_step { ON(EV_FAIL, 0, r, agent[r] == WAITS && response[r] == NO); agent[r] = LEAVES }
	:: d_step { ON(EV_STOP, 0, r, agent[r] == WAITS && stops > 0); stops--; agent[r] = LEAVES }
	:: d_step { ON(EV_WITHDRAW, 0, r, agent[r] == LEAVES || (agent[r] == WAITS && expired[r]));
		request[r] = 0; stale[r] = true; agent[r] = LEFT }
	:: d_step { ON(EV_WITHDRAWN, 0, r, agent[r] == LEFT);
#ifndef MUTANT_WITHDRAWAL_NOT_DURABLE
		request_durable[r] = 0;
#endif
		agent[r] = FAILED }
	:: agent[r] >= OK -> break
	od
}

/* ------------------------------------------------------------------ the watcher */

#ifdef MUTANT_TWO_WATCHERS
#define ALONE true
#else
#define ALONE !SOME_WATCHER(up)
#endif
#ifdef MUTANT_NOT_SETTLED_AT_START
#define SETTLE(r) skip
#else
#define SETTLE(r) response_durable[r] = response[r]
#endif
#ifdef MUTANT_RESPONSE_NOT_LOOKED_FOR
#define KNOWN(r) false
#elif defined(MUTANT_ARCHIVE_NOT_LOOKED_FOR)
#define KNOWN(r) (response[r] == NO || response[r] == YES)
#else
#define KNOWN(r) (response[r] != NONE)
#endif
#ifdef MUTANT_EXPIRY_NOT_LOOKED_AT
#define OLD(r) false
#define STILL_IN_TIME(w) true
#else
#define OLD(r) expired[r]
#define STILL_IN_TIME(w) IN_TIME(w)
#endif
#define SEEN(w, r) (up[w] && hand[AT(w, r)] == UNSEEN && request[r])

#define LOOK(w, r) d_step { ON(EV_TAKE, w, r, SEEN(w, r) && !KNOWN(r) && !OLD(r) && fence[w] <= GATHERED); \
		hand[AT(w, r)] = TICKET; fence[w] = GATHERED } \
	:: d_step { ON(EV_JOIN, w, r, SEEN(w, r) && !KNOWN(r) && !OLD(r) && fence[w] >= BEGUN && fence[w] <= ENDED); \
		hand[AT(w, r)] = JOINED } \
	:: d_step { ON(EV_TOO_LATE, w, r, SEEN(w, r) && !KNOWN(r) && OLD(r)); \
		hand[AT(w, r)] = TO_AUDIT; good[AT(w, r)] = false } \
	:: d_step { ON(EV_REPEAT, w, r, SEEN(w, r) && KNOWN(r)); hand[AT(w, r)] = TO_REMOVE }

/* A step of a fence. */
#define FENCE(w) d_step { ON(EV_BEGIN, w, 0, up[w] && fence[w] == GATHERED); fence[w] = BEGUN } \
	:: d_step { ON(EV_LOCK, w, 0, up[w] && fence[w] == BEGUN); \
		wanted[w] = LOCKS; held[w] = LOCKS && !restoring; fence[w] = LOCKED } \
	:: d_step { ON(EV_WANTED, w, 0, up[w] && fence[w] == LOCKED && STILL_WAITED_FOR(w)); fence[w] = CHECKED } \
	:: d_step { ON(EV_UNWANTED, w, 0, up[w] && fence[w] == LOCKED && !STILL_WAITED_FOR(w)); \
		proven[w] = false; fence[w] = ENDED } \
	:: d_step { ON(EV_READ, w, 0, up[w] && (fence[w] == CHECKED || fence[w] == CUT \
			|| (fence[w] == WAITING && !restoring))); \
		held[w] = held[w] || (LOCKS && !restoring); \
		fence[w] = (attached -> ATTACHED : (held[w] || !HELD_MATTERS -> CLEAN : WAITING)) } \
	:: d_step { ON(EV_CUT, w, 0, up[w] && fence[w] == ATTACHED && !flight && STILL_IN_TIME(w)); \
		ALL_OF(STAND_BEHIND, w); flight = w + 1; took[w] = true; fence[w] = SENT } \
	:: d_step { ON(EV_CONFIRMED, w, 0, up[w] && PROVEN(w)); proven[w] = true; fence[w] = ENDED } \
	:: d_step { ON(EV_UNCONFIRMED, w, 0, up[w] && fence[w] >= CHECKED && fence[w] <= CLEAN \
			&& (faults > 0 || trouble || !IN_TIME(w))); \
		if \
		:: IN_TIME(w) && !trouble -> faults--; trouble = true \
		:: else \
		fi; \
		proven[w] = false; fence[w] = ENDED } \
	:: d_step { ON(EV_RECORD, w, 0, up[w] && fence[w] == ENDED); fence[w] = RECORDED; RECORD_NOW(w) } \
	:: d_step { ON(EV_ANSWER, w, 0, up[w] && fence[w] == RECORDED); answer(w) } \
	:: d_step { ON(EV_UNLOCK, w, 0, up[w] && kept[w] && !UNDELIVERED(w)); kept[w] = false }

#ifdef MUTANT_NO_HOST_LOCK
#define LOCKS false
#define HELD_MATTERS false
#else
#define LOCKS true
#ifdef MUTANT_RESTORE_NOT_WAITED_FOR
#define HELD_MATTERS false
#else
#define HELD_MATTERS true
#endif
#endif
#ifdef MUTANT_WITHDRAWAL_NOT_LOOKED_AT
#define STILL_WAITED_FOR(w) true
#else
#define STILL_WAITED_FOR(w) SOMEBODY_WAITS(w)
#endif
#ifdef MUTANT_NO_READ_BACK
#define PROVEN(w) (fence[w] == SENT || fence[w] == CLEAN)
#else
#define PROVEN(w) (fence[w] == CLEAN)
#endif

inline put_on_record(w) {
	if
	:: proven[w] -> record = FENCED; unchanged = false
	:: !proven[w] && took[w] -> unchanged = false;
		if
		:: record == NONE -> record = PART
		:: else
		fi
	:: else
	fi;
	took[w] = false
}
#ifdef MUTANT_RECORD_AFTER_ANSWER
#define RECORD_NOW(w) skip
#else
#define RECORD_NOW(w) put_on_record(w)
#endif

#define ANSWER_TO(w, r) if \
	:: hand[AT(w, r)] == TICKET || (hand[AT(w, r)] == JOINED && proven[w]) -> \
		hand[AT(w, r)] = TO_AUDIT; good[AT(w, r)] = proven[w] \
	:: hand[AT(w, r)] == JOINED && !proven[w] -> hand[AT(w, r)] = UNSEEN /* it is looked at again */ \
	:: else \
	fi

inline answer(w) {
	ALL_OF(ANSWER_TO, w);
#ifndef MUTANT_UNLOCKED_BEFORE_THE_ANSWER
	kept[w] = kept[w] || proven[w];
#endif
	fence[w] = IDLE; wanted[w] = false; held[w] = false; proven[w] = false
}

#ifdef MUTANT_ANSWER_BEFORE_AUDIT
#define SHOW_AT(w, r) (hand[AT(w, r)] == TO_AUDIT || hand[AT(w, r)] == TO_SHOW)
#elif defined(MUTANT_AUDIT_NOT_DURABLE)
#define SHOW_AT(w, r) (hand[AT(w, r)] == AUDITING || hand[AT(w, r)] == TO_SHOW)
#else
#define SHOW_AT(w, r) (hand[AT(w, r)] == TO_SHOW)
#endif
#ifdef MUTANT_REQUEST_REMOVED_FIRST
#define REMOVE_AT(w, r) (hand[AT(w, r)] == TO_REMOVE || hand[AT(w, r)] == TO_SHOW)
#elif defined(MUTANT_RESPONSE_NOT_DURABLE)
#define REMOVE_AT(w, r) (hand[AT(w, r)] == TO_REMOVE || hand[AT(w, r)] == SHOWN)
#else
#define REMOVE_AT(w, r) (hand[AT(w, r)] == TO_REMOVE)
#endif
#define IS(w, r) (good[AT(w, r)] -> YES : NO)

/* A step of an answer on its way. */
#define DELIVER(w, r) d_step { ON(EV_AUDIT, w, r, up[w] && hand[AT(w, r)] == TO_AUDIT); \
		audit[r] = IS(w, r); hand[AT(w, r)] = AUDITING } \
	:: d_step { ON(EV_AUDITED, w, r, up[w] && hand[AT(w, r)] == AUDITING); \
		audit_durable[r] = IS(w, r); hand[AT(w, r)] = TO_SHOW } \
	:: d_step { ON(EV_VISIBLE, w, r, up[w] && SHOW_AT(w, r)); reveal(w, r) } \
	:: d_step { ON(EV_DURABLE, w, r, up[w] && hand[AT(w, r)] == SHOWN); \
		response_durable[r] = response[r]; hand[AT(w, r)] = TO_REMOVE } \
	:: d_step { ON(EV_REMOVE, w, r, up[w] && REMOVE_AT(w, r)); \
		request[r] = 0; hand[AT(w, r)] = REMOVING } \
	:: d_step { ON(EV_REMOVED, w, r, up[w] && hand[AT(w, r)] == REMOVING); \
		request_durable[r] = 0; hand[AT(w, r)] = UNSEEN; good[AT(w, r)] = false }

inline reveal(w, r) {
	/* One request, one response. */
	assert(response[r] == NONE);
	/* Invariant 7: what it says is on record, durably. */
	assert(audit_durable[r] == IS(w, r));
	/* Invariant 1: nothing is said that is not so. What was taken can be given back. */
	assert(!good[AT(w, r)] || !attached);
	assert(!good[AT(w, r)] || record == FENCED);
	response[r] = IS(w, r);
	regiven[r] = false;
	hand[AT(w, r)] = SHOWN
}

proctype Watcher(byte w) {
end:	do
	:: d_step { ON(EV_START, w, 0, !up[w] && ALONE); up[w] = true; ALL(SETTLE) }
	FOR_EACH(LOOK, w)
	:: FENCE(w)
	FOR_EACH(DELIVER, w)
	od
}

/* ------------------------------------------------------------------ a restore, and the drive */

/* A fence keeps its lock for as long as a command of its own may be carried out: `Beside.finish`. */
#ifdef MUTANT_UNANSWERED_NOT_WAITED_FOR
#define UNANSWERED false
#else
#define UNANSWERED (flight != 0)
#endif
#define FENCING (SOME_WATCHER(wanted) || SOME_WATCHER(held) || SOME_WATCHER(kept) || UNANSWERED)
#define IS_WANTED (SOME_WATCHER(wanted) || SOME_WATCHER(kept) || UNANSWERED)
#ifdef MUTANT_RESTORE_DOES_NOT_LOOK
#define LEAVE_IS_GIVEN true
#else
#define LEAVE_IS_GIVEN !IS_WANTED
#endif
#define READMIT(r) readmitted[r] = stale[r]; regiven[r] = true
#define PUT_AWAY(r) if \
	:: response[r] == YES -> response[r] = AWAY; response_durable[r] = AWAY \
	:: else \
	fi

proctype Restore() {
end:	do
	:: d_step { ON(EV_RESTORE, 0, 0, restore == 0 && restores > 0 && !FENCING && record != NONE);
		restores--; restoring = true; restore = R_LOCKED }
	:: d_step { ON(EV_ARCHIVE, 0, 0, restore == R_LOCKED);
#ifndef MUTANT_RESPONSES_ARCHIVED_LAST
		ALL(PUT_AWAY);
#endif
		restore = R_ARCHIVED }
	:: d_step { ON(EV_MARK, 0, 0, restore == R_ARCHIVED); unchanged = (record == FENCED);
		if
		:: record == FENCED -> record = PART
		:: else
		fi;
		restore = R_MARKED }
	:: d_step { ON(EV_PERMIT, 0, 0, restore == R_MARKED && LEAVE_IS_GIVEN);
		ALL(READMIT);
		granted = true; restore = R_GRANTED }
	:: d_step { ON(EV_ATTACH, 0, 0, restore == R_GRANTED); given(); restore = R_GIVEN }
	:: d_step { ON(EV_DENIED, 0, 0, (restore >= R_LOCKED && restore != R_GRANTED && restore != R_OVER)
			&& IS_WANTED);
		if
		:: restore != R_GIVEN && unchanged -> record = FENCED
		:: else
		fi;
		unchanged = false; restore = R_OVER }
	:: d_step { ON(EV_CLEAR, 0, 0, restore == R_GIVEN);
#ifdef MUTANT_RESPONSES_ARCHIVED_LAST
		ALL(PUT_AWAY);
#endif
		/* What a fence took meanwhile stays on record. */
		if
		:: record == PART && attached -> record = NONE
		:: else
		fi;
		unchanged = false; restore = R_OVER }
	:: d_step { ON(EV_RESTORED, 0, 0, restore == R_OVER); restoring = false; restore = 0 }
	od
}

inline arrived(w) {
	if
	:: fence[w] == SENT -> fence[w] = CUT
	:: else
	fi;
	flight = 0
}

proctype Drive() {
end:	do
	:: d_step { ON(EV_DETACH, flight - 1, 0, flight);
		if
		:: flight == 1 -> detached(0); arrived(0)
#if WATCHERS > 1
		:: flight == 2 -> detached(1); arrived(1)
#endif
		fi }
	:: d_step { ON(EV_REFUSE, flight - 1, 0, flight && faults > 0);
		faults--; trouble = true;
		if
		:: flight == 1 -> arrived(0)
#if WATCHERS > 1
		:: flight == 2 -> arrived(1)
#endif
		fi }
	od
}

/* ------------------------------------------------------------------ the world */

/* The kernel lets go of a process's locks only when its commands have been answered. */
#define FORGET(w, r) hand[AT(w, r)] = UNSEEN; good[AT(w, r)] = false
inline fall(w) {
	up[w] = false; fence[w] = IDLE; proven[w] = false; took[w] = false;
	wanted[w] = false; held[w] = false; kept[w] = false;
	ALL_OF(FORGET, w)
}

inline crash(w) {
	crashes--; trouble = true;
	if
	:: flight == w + 1 -> detached(w); flight = 0
	:: flight == w + 1 -> flight = 0
	:: flight != w + 1
	fi;
	fall(w)
}

#define LOST(r) if \
	:: request[r] = request_durable[r] \
	:: request[r] != request_durable[r] -> request_durable[r] = request[r] \
	fi; \
	if \
	:: response[r] = response_durable[r] \
	:: response[r] != response_durable[r] -> response_durable[r] = response[r] \
	fi; \
	if \
	:: audit[r] = audit_durable[r] \
	:: audit[r] != audit_durable[r] -> audit_durable[r] = audit[r] \
	fi; \
	/* Invariant 7, also after it. */ \
	assert(response[r] == NONE || response[r] == AWAY || response[r] == audit[r]); \
	if \
	:: agent[r] == LEFT && request[r] -> /* it was not withdrawn */ \
		stale[r] = expired[r]; readmitted[r] = readmitted[r] && expired[r]; agent[r] = KILLED \
	:: agent[r] > NEW && agent[r] < OK && !(agent[r] == LEFT && request[r]) -> agent[r] = KILLED \
	:: else \
	fi

#define REPLAY(w, r) d_step { ON(EV_REPLAY, 0, r, replays > 0 && response_durable[r] != NONE && !request[r] \
		&& agent[r] >= OK); replays--; request[r] = 1; request_durable[r] = 1 }
#define EXPIRE(w, r) d_step { ON(EV_EXPIRE, 0, r, expires > 0 && agent[r] != NEW && !expired[r]); \
		expires--; expired[r] = true; stale[r] = true; trouble = true }
/* Not while it withdraws: killed in that instant, and the power cut soon after, a request may stand again. */
#define KILL(w, r) d_step { ON(EV_KILL, 0, r, kills > 0 && agent[r] > NEW && agent[r] < LEFT); \
		kills--; agent[r] = KILLED }
#define CRASH(w) atomic { ON(EV_CRASH, w, 0, up[w] && crashes > 0); crash(w) }

proctype World() {
	do
	FOR_EACH(EXPIRE, 0)
	FOR_EACH(REPLAY, 0)
	FOR_EACH(KILL, 0)
	:: CRASH(0)
#if WATCHERS > 1
	:: CRASH(1)
#endif
	:: atomic { ON(EV_DIE, 0, 0, kills > 0 && restore);
		kills--;
		if
		:: granted -> given(); torn = true
		:: granted -> granted = false; torn = true
		:: !granted -> torn = torn || restore >= R_ARCHIVED
		fi;
		restoring = false; restore = 0; unchanged = false }
	:: atomic { ON(EV_POWER, 0, 0, cuts > 0);
		cuts--; trouble = true;
		if
		:: flight == 1 -> detached(0)
#if WATCHERS > 1
		:: flight == 2 -> detached(1)
#endif
		:: skip
		fi;
		flight = 0;
		if
		:: granted -> given()
		:: granted = false
		fi;
		torn = torn || restore >= R_ARCHIVED;
		restoring = false; restore = 0; unchanged = false;
		fall(0);
#if WATCHERS > 1
		fall(1);
#endif
		ALL(LOST) }
	:: break
	od
}

/* ------------------------------------------------------------------ the end of every run */

/* Invariant 5, and every request gets its one answer: nothing more can happen, whatever has happened. */
#define SETTLED(r) assert(!request[r]); \
	assert(agent[r] != WAITS || response[r] == AWAY); \
	assert(agent[r] == OK || agent[r] == FAILED || agent[r] == KILLED || agent[r] == WAITS); \
	assert(response[r] != NONE || stale[r] || agent[r] == KILLED); \
	assert(trouble || stale[r] || agent[r] == OK || agent[r] == KILLED || response[r] == AWAY); \
	assert(response[r] != YES || (!attached && (torn || record == FENCED))); \
	assert(agent[r] != OK || response[r] == YES || response[r] == AWAY || cuts < CUTS)

proctype End() {
	timeout -> atomic {
		ALL(SETTLED);
		assert(!flight && !restoring && !restore && !FENCING)
	}
}

init {
	atomic {
#ifdef TRACE
		select(which : 0 .. TRACE - 1);
		c_code { now.next = traces[now.which][0]; got_to(now.which, 0); };
#endif
		run Agent(0);
#if REQUESTS > 1
		run Agent(1);
#endif
#if REQUESTS > 2
		run Agent(2);
#endif
		run Watcher(0);
#if WATCHERS > 1
		run Watcher(1);
#endif
		run Restore();
		run Drive();
		run World();
#ifndef TRACE
		run End()
#endif
	}
}
