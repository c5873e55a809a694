/*
 * How an order is brought to its end, for the model checker spin (spinroot.com).
 *
 * Two orders, A and B, want one unit each of two SKUs, X and Y. Redis takes locks and units provisionally, PostgreSQL decides,
 * Redis is set to what PostgreSQL has. Two workers do so; the broker loses and repeats messages; at any step workers die, replies
 * get lost and stores are unavailable; locks run out; a sweeper re-enqueues orders that have no message.
 * One `atomic` block is one script in Redis or one transaction in PostgreSQL, which run whole or not at all. Between two
 * blocks anything else may happen for any length of time: a process that freezes is one that is not chosen.
 *
 * `make model` searches all of it, in several worlds, with each safeguard and without. ARCHITECTURE.md, Note [Model], says
 * what is left out, and which piece of code each of these pieces stands for.
 */
#ifndef MUTANT
#define MUTANT none  /* the safeguard that is left out, from the list below */
#define FAULTS 1     /* so many in one run: deaths, lost replies, messages lost or repeated, unavailable stores */
#define ROLLBACKS 0  /* so often Redis goes back to how it was when both orders had just been accepted */
#define PGBACK 0     /* so often PostgreSQL goes back: to before A's cancellation, or before all; a delivery comes, if no client cancels */
#define CANCELS 0    /* 1: a client cancels A, at any moment */
#define READS 0      /* 1: a client reads A, at any moment, also from PostgreSQL */
#define POISON 0     /* 1: A kills every worker that has reserved for it */
#define COPIES 0     /* 1: messages are delivered more than once, also where nobody is slow */
#define HELD 0       /* 1: another transaction holds the row of X in PostgreSQL for a while */
#define APART 0      /* 1: A wants X alone and B wants Y alone, and A is first in the queue */
#define PROMPT 0     /* 1: no worker is so slow that a lock runs out, a message comes again or PostgreSQL is restored meanwhile */
#define LOCKS 1      /* 0: none are taken, and everything else must hold all the same */
#define LIVENESS 0   /* 1: for the formula at the end */
#endif

mtype = {
  none,
  blind_del,              /* a lock is deleted, whoever holds it */
  locks_ignored,          /* another order's lock is no reason to wait */
  no_expiry,              /* locks live for ever */
  sorted_locks,           /* locks are taken one by one, X first: slower, but sound */
  unsorted_locks,         /* ... and B takes Y first */
  no_journal,             /* an accepted order is nowhere but on the queue */
  no_sweeper,             /* nobody looks at the journal */
  no_attempts,            /* tries are not counted */
  given_up_at_once,       /* ... or their number is enough to give an order up, though the last has only just begun */
  early_release,          /* the end is shown and locks are released before PostgreSQL has answered */
  no_read_back,           /* a worker whose order has a row already believes in what it wanted to write */
  decided_twice,          /* a row is overwritten */
  no_constraint,          /* PostgreSQL does not compare units sold with units on sale */
  redis_refuses,          /* PostgreSQL rejects what Redis calls short, and does not look by itself */
  blocked_stops_all,      /* a held row is taken for an unavailable PostgreSQL: the order keeps the head of the queue */
  counter_by_difference,  /* settling gives back what an attempt took, instead of showing what PostgreSQL has */
  version_ignored,        /* ... or shows it though Redis has a newer version */
  old_settle_ignored,     /* ... or leaves the counter as it is then, though this order may have taken units since */
  no_epoch,               /* nobody makes the versions old of a PostgreSQL that went back */
  late_epoch,             /* ... or only when its orders are what was shown: more is shown meanwhile */
  history_ignored,        /* settling shows what was read before PostgreSQL went back */
  backwards,              /* settling shows whatever its worker believes */
  end_replaced,           /* a cancellation replaces a rejection, though a client may have read it */
  cancelled_twice         /* an order that is cancelled can be cancelled */
};
mtype = { queued, confirmed, rejected, failed, cancelled };                    /* shop.domain.Status */
mtype = { over, called_short, blocked, again, cancel_requested, settled, foreign_history };  /* what else scripts and statements say */
mtype = { oversold, units_do_not_add_up, refused_what_there_is, shown_before_the_commit, a_second_end, went_back,
          foreign_lock_released, locks_do_not_exclude, given_up_at_work, neighbour_waits, not_at_rest };  /* what may be violated */

#define MAX_ATTEMPTS 2
#define A 1  /* orders; 0 is none */
#define B 2
#define X 0  /* SKUs */
#define Y 1
#define wants(each, s) (!APART || each == s + 1)

/* PostgreSQL */
byte on_sale[2], sold[2], version[2];  /* shop_product on_sale (without the delivery), confirmed, version */
bit delivered;                         /* one more unit of X and of Y is on sale */
byte history;                          /* so often it went back */
mtype row[3];                          /* shop_order.status; 0: no row */
bit row_held;                          /* another transaction has locked the row of X */

/* Redis */
mtype state[3] = queued;       /* order:<id> status */
byte attempts[3];              /* order:<id> attempts */
bit last[3];                   /* last_attempt:<id> */
bit wish[3];                   /* order:<id> cancel */
bit open[3], cancelling[3];    /* orders:open (the journal), orders:cancelling */
bit loaded[2];                 /* estoque:<sku> exists */
short stock[2];                /* estoque:<sku> */
byte shown_version[2];         /* version:<sku> */
byte shown_epoch[2], epoch;    /* ... and epoch */
byte lock[2];                  /* lock:produto:<sku>: the order that holds it */
bit message[3];                /* the queue; an order's second message is as good as its first */
byte head;                     /* the order that is first in the queue, where that matters */

/* What no part of the system sees */
byte hand[4];                  /* the order that each worker, the recovery and the delivery have in hand */
bit begun[4];                  /* it has counted an attempt, and is at work on it */
bit inside[4];                 /* it has locked and not settled it: no two are to be there at a time */
byte faults = FAULTS, rollbacks = ROLLBACKS, pgback = PGBACK;
bit recovering;                /* PostgreSQL went back, and the recovery is not done */
bit reported[3];               /* ... which could not book the order again: its units are sold */
bit promised;                  /* the client was told that A will be cancelled */
bit was_read;                  /* a client has read that A was rejected or given up */
bit returned;                  /* units came back after they were sold */
bit ends;                      /* within one script: an order ends */
byte passed;                   /* so often A was started since B waits */

#define o hand[me]             /* the order at hand */
#define fault atomic { faults > 0 -> faults-- }
#define violated(property) assert(property == 0)

/* ---- shop/lua ---- */

#define foreign(s) (wants(o, s) && lock[s] && lock[s] != o && MUTANT != locks_ignored)
/* An order that may be tried no more is not given up while its last attempt may be at work. */
#define is_held (attempts[o] >= MAX_ATTEMPTS && last[o] && MUTANT != given_up_at_once)
#define other (1 - me)

inline release(s) {
  if
  :: mine && wants(o, s) && lock[s] && (lock[s] == o || MUTANT == blind_del) ->
     if :: lock[s] != o -> violated(foreign_lock_released) :: else fi;
     lock[s] = 0
  :: else
  fi
}

inline unlock() { release(X); release(Y); mine = 0; inside[me] = 0 }

/* A counter that is missing stops nobody: PostgreSQL knows. */
#define short_of(s) (wants(o, s) && loaded[s] && stock[s] < 1)

inline take(s) {
  if :: wants(o, s) && loaded[s] -> stock[s]-- :: else fi;
  if :: wants(o, s) && LOCKS -> lock[s] = o; mine = 1; inside[me] = 1 :: else fi
}

/* Leaves in `decided` what PostgreSQL is asked to decide, or `over` in `reply`. An order that meets a lock waits. */
inline reserve() {
  reply = 0; decided = 0;
  if
  :: state[o] != queued -> reply = over
  :: state[o] == queued && wish[o] -> decided = cancelled
  :: else ->
     if :: MUTANT != no_attempts -> attempts[o]++ :: else fi;
     /* Where anybody may be slow, that may be over at any moment: it forbids nothing. */
     if :: attempts[o] == MAX_ATTEMPTS -> last[o] = PROMPT :: else fi;
     begun[me] = PROMPT;
     if
     :: attempts[o] > MAX_ATTEMPTS ->
        decided = failed; mine = LOCKS;  /* those of the worker that it killed last */
        if :: PROMPT && begun[other] && hand[other] == o -> violated(given_up_at_work) :: else fi
     :: attempts[o] <= MAX_ATTEMPTS && (short_of(X) || short_of(Y)) -> decided = called_short
     :: else -> decided = confirmed; take(X); take(Y)
     fi
  fi;
  printf("worker %d reserves for order %d: %e %e\n", me, o, decided, reply)
}

/* Sets the counter to what PostgreSQL has free, where Redis knows nothing newer. An older version says nothing of the units that
   an order which ends now may have taken since: the counter goes, and everybody asks PostgreSQL until the next settling. */
#define is_old(s) (shown_epoch[s] == epoch && shown_version[s] > version_read && MUTANT != version_ignored)

inline publish(s) {
  if
  :: wants(o, s) && !is_old(s) && MUTANT != counter_by_difference ->
     loaded[s] = 1; stock[s] = on_sale[s] - gone; shown_version[s] = version_read; shown_epoch[s] = epoch
  :: wants(o, s) && !is_old(s) && MUTANT == counter_by_difference ->
     if :: mine && loaded[s] && decided != confirmed -> stock[s]++ :: else fi
  :: wants(o, s) && is_old(s) && ends && MUTANT != old_settle_ignored -> loaded[s] = 0; stock[s] = 0
  :: else
  fi
}

#define replaced(end) (end == confirmed || (MUTANT == end_replaced && (end == rejected || end == failed)))

#define is_foreign (history_read != epoch && MUTANT != history_ignored)

/* What stopped it was not the order's fault: its attempt is not counted, once. */
inline forgive() {
  if :: me < 2 && reply != settled && state[o] == queued && attempts[o] -> attempts[o]-- :: else fi
}

/* Shows `decided` (0: the order must wait) and stock. Says settled, cancel_requested or foreign_history. */
inline settle() {
  if
  :: is_foreign -> reply = foreign_history
  :: !is_foreign && !decided -> forgive(); reply = settled
  :: !is_foreign && decided && state[o] == queued && replaced(decided) && wish[o] -> reply = cancel_requested
  :: else ->
     open[o] = 0; reply = settled;
     if :: decided != confirmed -> cancelling[o] = 0 :: else fi;
     if
     :: state[o] == queued || (state[o] == confirmed && decided == cancelled) ->
        state[o] = decided; wish[o] = 0; ends = 1
     :: state[o] == cancelled && decided != cancelled && MUTANT == backwards -> violated(went_back)
     :: else
     fi
  fi;
  if :: !is_foreign -> publish(X); publish(Y); unlock() :: else fi;
  ends = 0;
  printf("worker %d settles order %d as %e with version %d, %d gone: %e\n", me, o, decided, version_read, gone, reply)
}

/* ---- shop/sql ---- */

#define fits(each) ((!wants(each, X) || sold[X] < on_sale[X] + delivered) && (!wants(each, Y) || sold[Y] < on_sale[Y] + delivered))
#define is_blocked(each) (row_held && wants(each, X))

inline count(each, s, delta) {
  if :: wants(each, s) -> sold[s] = sold[s] + delta; version[s]++ :: else fi
}

/* The SKUs of one order change together: one version and one number of units, sold less delivered, say it for both. */
inline read_stock() {
  if
  :: wants(o, X) -> version_read = version[X]; gone = sold[X] - delivered
  :: else -> version_read = version[Y]; gone = sold[Y] - delivered
  fi
}

inline write(end) {
  if :: row[o] -> violated(a_second_end) :: else fi;
  if
  :: end == confirmed -> count(o, X, 1); count(o, Y, 1)
  :: end == rejected && fits(o) && me < 2 -> violated(refused_what_there_is)  /* the recovery writes what was shown */
  :: else
  fi;
  row[o] = end; decided = end
}

/* Leaves in `decided` what the order's row says, or 0 and in `reply` why it must wait. */
inline decide() {
  reply = 0;
  if
  :: row[o] && MUTANT != decided_twice ->
     if
     :: MUTANT != no_read_back -> decided = row[o]
     :: MUTANT == no_read_back && decided == called_short -> decided = rejected
     :: else
     fi
  :: else ->
     if
     :: decided == confirmed && is_blocked(o) -> reply = blocked; decided = 0
     :: decided == confirmed && !is_blocked(o) && !fits(o) && MUTANT != no_constraint -> write(rejected)
     :: decided == called_short && (!fits(o) || MUTANT == redis_refuses) -> write(rejected)
     :: decided == called_short && fits(o) && MUTANT != redis_refuses -> reply = again; decided = 0
     :: else -> write(decided)
     fi
  fi;
  history_read = history; read_stock();
  printf("PostgreSQL decides order %d for worker %d: %e %e\n", o, me, decided, reply)
}

/* Only a confirmed order is cancelled: a client may have read any other end. */
inline cancel_in_books() {
  if
  :: replaced(row[o]) || (row[o] == cancelled && MUTANT == cancelled_twice) ->
     if :: row[o] != rejected && row[o] != failed -> count(o, X, -1); count(o, Y, -1); returned = 1 :: else fi;
     row[o] = cancelled
  :: else
  fi;
  printf("worker %d cancels order %d in PostgreSQL\n", me, o)
}

/* ---- A worker: workers/transport.py, tasks/orders.py, shop/fulfilment.py ---- */

inline forget() {
  o = 0; reply = 0; decided = 0; version_read = 0; gone = 0; history_read = 0
}

#define may_start(each) (message[each] && (!head || each == head || !message[head]))

inline wait_for_lock(s) {
  atomic { !foreign(s) -> lock[s] = o; mine = 1; printf("worker %d locks SKU %d for order %d\n", me, s, o) }
}

/* A neighbour that could go on is passed over once by an order that must wait, and once more by a fault. */
inline start() {
  if
  :: APART && o == A && message[B] -> passed++;
     if :: passed > 1 + FAULTS -> violated(neighbour_waits) :: else fi
  :: else -> passed = 0
  fi
}

proctype Worker(byte me) {
  mtype reply, decided;
  byte version_read, history_read;
  short gone;
  bit mine;  /* it took the order's locks */

idle:
  atomic {
    mine = 0; inside[me] = 0; begun[me] = 0;
    forget();
end:
    if
    :: may_start(A) -> o = A
    :: may_start(B) -> o = B
    :: cancelling[A] && row[A] -> o = A; goto cancel  /* its message or the sweeper: both may carry it out at once */
    fi;
    start();
    if
    :: message[o] = 0
    :: atomic { (!PROMPT || COPIES) && faults > 0 -> faults-- }   /* it is redelivered: the acknowledgement will be lost, or is late */
    fi
  };
  if
  :: MUTANT == sorted_locks || (MUTANT == unsorted_locks && o == A) -> wait_for_lock(X); wait_for_lock(Y)
  :: MUTANT == unsorted_locks && o == B -> wait_for_lock(Y); wait_for_lock(X)
  :: MUTANT != sorted_locks && MUTANT != unsorted_locks
  fi;

reserving:
  atomic { state[o] != queued || (!foreign(X) && !foreign(Y) && !is_held) -> reserve() };
  if
  :: fault -> begun[me] = 0; goto reserving  /* the reply was lost: redis-py asks again, and takes units again */
  :: fault -> goto away
  :: fault -> goto died
  :: POISON && o == A && decided == confirmed -> goto died
  :: reply == over -> goto idle
  :: decided && !(POISON && o == A && decided == confirmed)
  fi;
  if :: MUTANT == early_release -> atomic { settle() } :: else fi;

deciding:
  atomic {
    if
    :: recovering -> printf("PostgreSQL went back, and decides nothing\n"); goto away
    :: else -> decide()
    fi
  };
  if
  :: fault -> goto away       /* the reply was lost: nobody knows whether it was committed */
  :: fault -> goto died
  :: reply == blocked && MUTANT == blocked_stops_all -> goto away
  :: atomic { !(reply == blocked && MUTANT == blocked_stops_all) -> reply = 0; goto settling }
  fi;

cancel:
  atomic { !is_blocked(o) -> cancel_in_books() };
reading:
  atomic { decided = row[o]; history_read = history };
  if :: decided :: !decided -> goto idle fi;
  atomic { read_stock() };
settling:
  atomic { settle() };
  if
  :: fault -> goto settling
  :: fault -> goto died
  :: atomic { reply == cancel_requested ->
     reply = 0; decided = 0; version_read = 0; gone = 0; history_read = 0; goto cancel }
  :: reply == foreign_history -> goto away
  :: reply == settled && decided -> goto idle
  :: reply == settled && !decided -> goto busy
  fi;

busy:                         /* a row is held, or Redis knows better now: back into the queue, others go first */
  atomic {
    message[o] = 1;
    if :: APART -> head = 3 - o :: else fi;
    goto idle
  };

away:                         /* a store is unavailable: locks released, the attempt not counted, back to the head of the queue */
  atomic {
    unlock();
    if :: decided != failed && decided != cancelled -> forgive() :: else fi;
    message[o] = 1;
    if :: APART -> head = o :: else fi;
    goto idle
  };

died:                         /* the broker has the message still, or this was the moment to lose it */
  atomic {
    inside[me] = 0;
    if :: message[o] = 1 :: fault fi;
    printf("worker %d died\n", me); goto idle
  }
}

/* ---- shop/sweeper.py ---- */

#define in_hand(each) (PROMPT && (hand[0] == each || hand[1] == each))
#define due(each) (open[each] && !message[each] && !in_hand(each) && MUTANT != no_sweeper)

proctype Sweeper() {
end:
  do
  :: atomic { due(A) -> message[A] = 1; printf("the sweeper enqueues order 1\n") }
  :: atomic { due(B) -> message[B] = 1; printf("the sweeper enqueues order 2\n") }
  od
}

/* ---- shop/recovery.py, while orders flow ---- */

inline book() {
  if
  :: row[o]
  :: !row[o] && decided == confirmed && !fits(o) -> reported[o] = 1
  :: else -> write(decided)
  fi;
  printf("the recovery books order %d as %e\n", o, decided)
}

/* Redis is read first: it shows no end before PostgreSQL has it. */
inline compare(each) {
  atomic { o = each; decided = state[o] };
  atomic { found = row[o] };
  if
  :: !found && decided != queued -> atomic { decided != confirmed || !is_blocked(o) -> book() }
  :: found == confirmed && decided == cancelled -> atomic { !is_blocked(o) -> cancel_in_books() }
  :: found && (decided == queued || (decided == confirmed && found == cancelled)) ->
     atomic { decided = row[o] };
     if :: decided -> atomic { history_read = history; read_stock() }; atomic { settle() } :: else fi
  :: found && found != decided && decided != queued && !(found == confirmed && decided == cancelled) &&
     !(decided == confirmed && found == cancelled) -> reported[o] = 1
  :: (!found && decided == queued) || (found && found == decided)
  fi;
  atomic { decided = 0; found = 0; version_read = 0; gone = 0; history_read = 0 }
}

inline begin_epoch() {
  if :: MUTANT != no_epoch -> atomic { epoch = history; printf("the epoch begins\n") } :: else fi
}

proctype Recovery() {
  mtype reply, decided, found;
  byte version_read, history_read;
  short gone;
  bit mine;
  byte me = 2;
end:
  do
  :: recovering ->
     if :: MUTANT != late_epoch -> begin_epoch() :: else fi;  /* first: what is shown from now on is in PostgreSQL */
     compare(A); compare(B);
     if :: MUTANT == late_epoch -> begin_epoch() :: else fi;
     atomic { history_read = history; read_stock() };
     atomic { settle(); recovering = 0; forget() }
  od
}

/* ---- What may happen at any moment ---- */

/* The locks of an order were taken by one script, and run out together. */
#define runs_out(each) ((lock[X] == each || lock[Y] == each) && !in_hand(each) && MUTANT != no_expiry)
#define has_begun(each) (PROMPT && ((begun[0] && hand[0] == each) || (begun[1] && hand[1] == each)))

/* accept.lua, for both orders; Redis may go back to it. `loaded` or not: counters may have been saved with it. */
inline accept(each) {
  state[each] = queued; attempts[each] = 0; last[each] = 0; wish[each] = 0; cancelling[each] = 0;
  open[each] = (MUTANT != no_journal); message[each] = 1
}

inline accept_both() {
  accept(A); accept(B); lock[X] = 0; lock[Y] = 0; epoch = 0;
  shown_version[X] = 0; shown_version[Y] = 0; shown_epoch[X] = 0; shown_epoch[Y] = 0;
  if
  :: stock[X] = on_sale[X]; stock[Y] = on_sale[Y]; loaded[X] = 1; loaded[Y] = 1
  :: on_sale[X] == 3; stock[X] = 0; stock[Y] = 0; loaded[X] = 0; loaded[Y] = 0
  fi;
  if :: APART -> head = A :: else fi
}

#define may_go_back (pgback > 0 && !recovering)

inline books_go_back() {
  pgback--; recovering = 1; history++;
  if
  :: row[A] == cancelled && returned && fits(A) ->
     row[A] = confirmed; sold[X]++; sold[Y]++; version[X]--; version[Y]--
  :: row[A] = 0; row[B] = 0; sold[X] = 0; sold[Y] = 0; version[X] = 0; version[Y] = 0; delivered = 0
  fi;
  printf("PostgreSQL goes back: %d sold\n", sold[X])
}

inline run_out(each) {
  if :: lock[X] == each -> lock[X] = 0 :: else fi;
  if :: lock[Y] == each -> lock[Y] = 0 :: else fi;
  printf("the locks of order %d run out\n", each)
}

proctype World() {
end:
  do
  :: atomic { runs_out(A) -> run_out(A) }
  :: atomic { runs_out(B) -> run_out(B) }
  :: atomic { last[A] && !has_begun(A) -> last[A] = 0 }
  :: atomic { last[B] && !has_begun(B) -> last[B] = 0 }
  :: atomic { message[A] && faults > 0 -> faults--; message[A] = 0; printf("the message of order 1 is lost\n") }
  :: atomic { message[B] && faults > 0 -> faults--; message[B] = 0; printf("the message of order 2 is lost\n") }
  :: atomic { rollbacks > 0 -> rollbacks--; promised = 0; accept_both(); printf("Redis goes back\n") }
  :: atomic { may_go_back -> books_go_back() }
  od
}

/* shop/movements.py, or a catalogue: one statement, and what it says is published. */
proctype Delivery() {
  mtype reply, decided;
  byte version_read, history_read;
  short gone;
  bit mine;
  byte me = 3;
  o = A;
  atomic {
    !recovering -> delivered = 1; version[X]++; version[Y]++; history_read = history; read_stock();
    printf("a delivery: version %d\n", version_read)
  };
  atomic { settle(); forget() }
}

/* Any transaction: of staff, of a catalogue, of another worker. */
proctype Holder() {
  atomic { row_held = 1; printf("a transaction holds the row of X\n") };
  atomic { row_held = 0; printf("it ends\n") }
}

/* A poll: from PostgreSQL where Redis knows no end yet. */
#define shown(each) (state[each] == queued -> row[each] : state[each])

proctype Reader() {
end:
  atomic { shown(A) == rejected || shown(A) == failed -> was_read = 1; printf("a client reads that order 1 is rejected\n") }
}

/* A look at both stores, then request_cancel.lua. */
proctype Client() {
  mtype looked;
  atomic { looked = shown(A) };
  atomic {
    if
    :: looked == rejected || looked == failed || state[A] == rejected || state[A] == failed -> printf("too late to cancel\n")
    :: else ->
       promised = 1; wish[A] = (state[A] == queued); cancelling[A] = (state[A] != cancelled);
       printf("the client cancels order 1\n")
    fi
  }
}

/* ---- What must hold ---- */

#define oversells(s) (sold[s] > on_sale[s] + delivered)
#define adds_up(s) (sold[s] == (row[A] == confirmed && wants(A, s)) + (row[B] == confirmed && wants(B, s)))
/* A worker that saw a cancellation which Redis then forgot may still carry it out, in PostgreSQL alone: only units are right. */
#define wishes_forgotten (CANCELS && ROLLBACKS)
#define agree(each) (state[each] == row[each] || wishes_forgotten || reported[each])
#define true_to_books(each) (state[each] == queued || agree(each) || (state[each] == confirmed && row[each] == cancelled))
#define closed(each) (state[each] != queued && agree(each) && !open[each] && !cancelling[each] && !wish[each])
/* What is missing is read from PostgreSQL. What is newer than PostgreSQL would keep out all that is settled from then on. */
#define exact(s) ((!loaded[s] || stock[s] + sold[s] == on_sale[s] + delivered) && \
                  (shown_epoch[s] != epoch || shown_version[s] <= version[s]))
#define at_rest (closed(A) && closed(B) && exact(X) && exact(Y) && !lock[X] && !lock[Y] && !recovering && \
                 (!promised || state[A] != confirmed || wishes_forgotten))

/* Looks at every state: it moves only when something is wrong, or when nobody else can move any more (`timeout`). */
#if !LIVENESS
active proctype Watch() {
end:
  if
  :: atomic { !recovering && (!true_to_books(A) || !true_to_books(B)) -> violated(shown_before_the_commit) }
  :: atomic { !adds_up(X) || !adds_up(Y) -> violated(units_do_not_add_up) }
  :: atomic { oversells(X) || oversells(Y) -> violated(oversold) }
  :: atomic { was_read && (row[A] == cancelled || state[A] == cancelled) -> violated(went_back) }
  /* Whoever settles an order takes its lock from its copies, which have nothing to do any more. */
  :: atomic { PROMPT && !COPIES && !APART && inside[0] && inside[1] && hand[0] != hand[1] -> violated(locks_do_not_exclude) }
  :: atomic { timeout -> if :: at_rest :: else -> violated(not_at_rest) fi }
  fi
}
#endif

/* Every accepted order ends, and all that was opened for it is closed, if nobody who can go on is kept from it for ever. */
ltl comes_to_rest { <> [] at_rest }

init {
  atomic {
    if
    :: on_sale[X] = 1; on_sale[Y] = 1  /* enough for one order */
    :: !PGBACK -> on_sale[X] = 2; on_sale[Y] = 1  /* for one, though one line of the other could be had */
    :: !PGBACK -> on_sale[X] = 3; on_sale[Y] = 3  /* for both, and one is left */
    fi;
    accept_both();
    run Worker(0); run Worker(1); run Sweeper(); run World();
    if :: CANCELS -> run Client() :: else fi;
    if :: READS -> run Reader() :: else fi;
    if :: HELD -> run Holder() :: else fi;
    if :: PGBACK -> run Recovery() :: else fi;
    if :: PGBACK && !CANCELS -> run Delivery() :: else fi
  }
}
