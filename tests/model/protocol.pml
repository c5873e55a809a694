/*
 * How an order is brought to its end, for the model checker spin (spinroot.com).
 *
 * Two orders, A and B, want one unit each of two SKUs, X and Y. Two workers fulfil them; the broker loses and repeats
 * messages; at any step workers die, replies get lost and PostgreSQL is away; locks run out; a sweeper goes after what got stuck.
 * One `atomic` block is one script in Redis or one statement in PostgreSQL, which run whole or not at all. Between two
 * blocks anything else may happen for any length of time: a process that freezes is one that is not chosen.
 *
 * `make model` searches all of it, in several worlds, with each safeguard and without. ARCHITECTURE.md, Note [Model], tells
 * what is left out, and which piece of code each of these pieces stands for.
 */
#ifndef MUTANT
#define MUTANT none  /* the safeguard that is left out, from the list below */
#define FAULTS 1     /* so many in one run: deaths, lost replies, messages lost or repeated, absences of PostgreSQL */
#define ROLLBACKS 0  /* so often Redis goes back to how it was when both orders had just been accepted */
#define CANCELS 0    /* 1: a client cancels A, at any moment */
#define READS 0      /* 1: a client reads A, at any moment, also from PostgreSQL */
#define POISON 0     /* 1: A kills every worker that has reserved for it */
#define COPIES 0     /* 1: messages come more than once, also where nobody is slow */
#define PROMPT 0     /* 1: nobody is so slow that a lock runs out, or a message comes again, while he works on it */
#define LOCKS 1      /* 0: none are taken, and everything else must hold all the same */
#define LIVENESS 0   /* 1: for the formula at the end */
#endif

mtype = {
  none,
  blind_del,          /* a lock is deleted, whoever holds it */
  locks_ignored,      /* another order's lock is no reason to wait */
  no_expiry,          /* locks live for ever */
  sorted_locks,       /* locks are taken one by one, X first: slower, but sound */
  unsorted_locks,     /* ... and B takes Y first */
  no_journal,         /* an accepted order is nowhere but on the queue */
  no_sweeper,         /* nobody looks at the journal */
  no_attempts,        /* tries are not counted */
  given_up_at_once,   /* ... or their number is enough to give an order up, though the last has only just begun */
  check_then_take,    /* stock is looked at in one step and taken in the next */
  half_an_order,      /* a line that is in stock is taken, though another is not */
  taken_again,        /* reserving does not see the reservation that is there */
  early_release,      /* the end is shown and locks are released before PostgreSQL has answered */
  no_read_back,       /* a worker whose order has a row already believes in what it wanted to write */
  decided_twice,      /* a row is overwritten */
  no_constraint,      /* PostgreSQL does not compare units sold with units on sale */
  no_tokens,          /* any reservation of an order is taken for the one that its row counts */
  loss_ignored,       /* ... and so is none */
  forgotten_early,    /* counters that can't be trusted are forgotten in a step before the loss is accepted */
  loaded_blindly,     /* a load does not see reservations that ended, or another load, under its hands */
  backwards,          /* settling shows whatever its worker believes */
  end_replaced,       /* a cancellation replaces a rejection, though a client may have read it */
  cancelled_twice,    /* an order that is cancelled can be cancelled */
  level_added         /* a stock level is added, whatever of it the counter contains */
};
mtype = { queued, confirmed, rejected, failed, cancelled };                /* shop.domain.Status */
mtype = { over, not_loaded, refused, recorded, settled, wished, lost };    /* what else scripts and statements say */
mtype = { oversold, promised_twice, units_do_not_add_up, shown_before_the_commit, a_second_end, went_back,
          foreign_lock_released, locks_do_not_exclude, given_up_at_work, not_at_rest };      /* what may be violated */

#define MAX_ATTEMPTS 2
#define A 1  /* orders; 0 is none */
#define B 2
#define X 0  /* SKUs */
#define Y 1

/* PostgreSQL. Each order has one unit of X and one of Y, so that one counter does for both. */
byte on_sale[2], sold, returned;
mtype row[3];                  /* shop_order.status; 0: no row */
byte counted[3];               /* shop_order.reservation: the token that the row counts; 0: none */

/* Redis */
mtype state[3] = queued;       /* order:<id> status */
byte attempts[3];              /* order:<id> attempts */
bit last[3];                   /* last_attempt:<id> */
bit wish[3];                   /* order:<id> cancel */
bit open[3], cancelling[3];    /* orders:open (the journal), orders:cancelling */
byte held[3];                  /* reservations: the token of the open one; it holds a unit of X and one of Y */
bit loaded;                    /* estoque:X and estoque:Y exist */
short stock[2];                /* estoque:<sku> */
byte level, loading;           /* level:<sku>: returned units that stock contains; whose load is the newest */
byte lock[2];                  /* lock:produto:<sku>: the order that holds it */
bit message[3];                /* the queue; an order's second message is as good as its first */

/* What no part of the system sees */
byte hand[2];                  /* the order that each worker has in hand */
bit begun[2];                  /* it has counted an attempt, and is at work on it */
bit inside[2];                 /* it has locked and not settled it: no two are to be there at a time */
byte tokens[3];                /* tokens are random: none comes twice */
byte faults = FAULTS, rollbacks = ROLLBACKS;
bit promised;                  /* the client was told that A will be cancelled */
bit was_read;                      /* a client has read that A was rejected or given up */

#define o hand[me]             /* the order at hand */
#define fault atomic { faults > 0 -> faults-- }
#define violated(property) assert(property == 0)

/* ---- shop/lua, shop/stock.py ---- */

#define foreign(s) (lock[s] && lock[s] != o && MUTANT != locks_ignored)
/* An order that may be tried no more is not given up while its last attempt may be at work. */
#define is_held (attempts[o] >= MAX_ATTEMPTS && last[o] && MUTANT != given_up_at_once)
#define other (1 - me)

inline release(s) {
  if
  :: mine && lock[s] && (lock[s] == o || MUTANT == blind_del) ->
     if :: lock[s] != o -> violated(foreign_lock_released) :: else fi;
     lock[s] = 0
  :: else
  fi
}

inline unlock() { release(X); release(Y); mine = 0; inside[me] = 0 }

inline take() { stock[X]--; stock[Y]--; tokens[o]++; held[o] = tokens[o] }

#define fresh (!held[o] || MUTANT == taken_again)

/* Leaves an end in `decided`, or `over` or `not_loaded` in `reply`. An order that meets a lock stays in line: it waits. */
inline reserve() {
  reply = 0; decided = 0; token = 0;
  if
  :: state[o] != queued -> reply = over
  :: state[o] == queued && fresh && wish[o] -> decided = cancelled
  :: state[o] == queued && fresh && !wish[o] && !loaded -> reply = not_loaded
  :: else ->
     if :: MUTANT != no_attempts -> attempts[o]++ :: else fi;
     /* Where anybody may be slow, that may be over at any moment: it forbids nothing. */
     if :: attempts[o] == MAX_ATTEMPTS -> last[o] = PROMPT :: else fi;
     begun[me] = PROMPT;
     if
     :: attempts[o] > MAX_ATTEMPTS ->
        decided = failed; mine = LOCKS;  /* those of the worker that it killed last */
        if :: PROMPT && begun[other] && hand[other] == o -> violated(given_up_at_work) :: else fi
     :: attempts[o] <= MAX_ATTEMPTS && fresh && (stock[X] < 1 || stock[Y] < 1) ->
        decided = rejected;
        if :: MUTANT == half_an_order && stock[X] -> stock[X]-- :: else fi
     :: else ->
        decided = confirmed;
        if :: fresh && MUTANT != check_then_take -> take() :: else fi;
        token = held[o];
        if :: LOCKS -> lock[X] = o; lock[Y] = o; mine = 1; inside[me] = 1 :: else fi
     fi
  fi;
  printf("worker %d reserves for order %d: %e %e\n", me, o, decided, reply)
}

inline unload() { loaded = 0; loading = 0; level = 0; stock[X] = 0; stock[Y] = 0 }

#define spent (held[o] && (held[o] == token || (token && MUTANT == no_tokens)))
#define replaced(end) (end == confirmed || (MUTANT == end_replaced && (end == rejected || end == failed)))
#define wished_now (state[o] == queued && replaced(decided) && wish[o])
#define lost_now (state[o] == queued && token && !spent && MUTANT != loss_ignored)

/* Shows `decided`, with `token` as the one that the row counts. Says settled, wished or lost. */
inline settle() {
  if
  :: wished_now -> reply = wished
  :: !wished_now && lost_now && !accept_lost -> reply = lost
  :: else ->
     if :: lost_now && MUTANT != forgotten_early -> unload() :: else fi;
     if :: held[o] && !spent && loaded -> stock[X]++; stock[Y]++ :: else fi;
     held[o] = 0; open[o] = 0; reply = settled;
     if :: decided != confirmed -> cancelling[o] = 0 :: else fi;
     if
     :: state[o] == queued || (state[o] == confirmed && decided == cancelled) -> state[o] = decided; wish[o] = 0
     :: state[o] == cancelled && decided != cancelled && MUTANT == backwards -> violated(went_back)
     :: else
     fi
  fi;
  unlock();
  printf("worker %d settles order %d as %e: %e\n", me, o, decided, reply)
}

/* By the difference to what the counter contains, so that a level applied twice changes nothing. */
#define difference (returned - (MUTANT == level_added -> 0 : level))

inline sync_level() {
  if
  :: loaded && (level < returned || MUTANT == level_added) ->
     stock[X] = stock[X] + difference; stock[Y] = stock[Y] + difference; level = returned
  :: loaded && level >= returned && MUTANT != level_added
  :: !loaded -> loading = 0
  fi
}

/*
 * Counters are read from PostgreSQL while orders flow: begin_load.lua, load.sql, finish_load.lua. Of two loads each may make
 * the other void, and random waits end that; where it is asked whether orders end, a load is therefore one step.
 */
inline load() {
  atomic { noted[A] = held[A]; noted[B] = held[B]; if :: !loaded -> loading = me + 1 :: else fi };
  atomic {
    if :: noted[A] == counted[A] -> noted[A] = 0 :: else fi;
    if :: noted[B] == counted[B] -> noted[B] = 0 :: else fi;
    taken = sold + (noted[A] != 0) + (noted[B] != 0); seen = returned
  };
  atomic {
    if
    :: !loaded && (MUTANT == loaded_blindly ||
       (loading == me + 1 && (!noted[A] || held[A] == noted[A]) && (!noted[B] || held[B] == noted[B]))) ->
       stock[X] = on_sale[X] - taken; stock[Y] = on_sale[Y] - taken; level = seen; loaded = 1; loading = 0
    :: else  /* the order is asked for again, and so is this */
    fi;
    printf("worker %d loads stock: %d %d\n", me, stock[X], stock[Y]);
    noted[A] = 0; noted[B] = 0; taken = 0; seen = 0
  }
}

/* ---- shop/sql ---- */

/* Says recorded where the order has a row already, refused where the constraint forbids it. */
inline persist() {
  if
  :: row[o] && MUTANT != decided_twice -> reply = recorded
  :: !row[o] && decided == confirmed && (sold >= on_sale[X] || sold >= on_sale[Y]) && MUTANT != no_constraint ->
     reply = refused
  :: else ->
     if :: row[o] -> violated(a_second_end) :: else fi;
     if :: decided == confirmed -> sold++ :: else fi;
     row[o] = decided; counted[o] = token; reply = 0
  fi;
  printf("worker %d writes that order %d is %e: %e\n", me, o, decided, reply)
}

/* Only a confirmed order is cancelled: a client may have read any other end. */
inline cancel_in_books() {
  if
  :: replaced(row[o]) || (row[o] == cancelled && MUTANT == cancelled_twice) ->
     row[o] = cancelled;
     if :: counted[o] -> sold--; returned++ :: else fi
  :: else
  fi;
  printf("worker %d cancels order %d in the books\n", me, o)
}

/* ---- A worker: workers/transport.py, tasks/orders.py, shop/fulfilment.py ---- */

inline wait_for_lock(s) {
  atomic { !foreign(s) -> lock[s] = o; mine = 1; printf("worker %d locks SKU %d for order %d\n", me, s, o) }
}

proctype Worker(byte me) {
  mtype reply, decided;
  byte token, noted[3], taken, seen;
  bit mine, accept_lost;  /* mine: it took the order's locks */

idle:
  atomic {
    o = 0; mine = 0; inside[me] = 0; begun[me] = 0; reply = 0; decided = 0; token = 0; accept_lost = 0;
end:
    if
    :: message[A] -> o = A
    :: message[B] -> o = B
    :: cancelling[A] && row[A] -> o = A; goto cancel  /* its message or the sweeper: both may carry it out at once */
    fi;
    if
    :: message[o] = 0
    :: atomic { (!PROMPT || COPIES) && faults > 0 -> faults-- }   /* it comes again: the acknowledgement will be lost, or is late */
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
  :: fault -> begun[me] = 0; goto reserving  /* the reply was lost: redis-py asks again */
  :: fault -> goto away
  :: fault -> goto died
  :: POISON && o == A && decided == confirmed -> goto died
  :: reply == over -> goto idle
  :: reply == not_loaded && !LIVENESS -> load(); goto reserving
  :: reply == not_loaded && LIVENESS -> atomic { load() }; goto reserving
  :: decided && !(POISON && o == A && decided == confirmed)
  fi;
  if :: MUTANT == check_then_take && decided == confirmed && !token -> atomic { take(); token = held[o] } :: else fi;
  if :: MUTANT == early_release -> atomic { settle() } :: else fi;

deciding:
  atomic { persist() };
  if
  :: fault -> goto away       /* the reply was lost: nobody knows whether it was committed */
  :: fault -> goto died
  :: reply == refused -> goto refused_by_books
  :: reply == recorded && MUTANT != no_read_back -> goto reading
  :: else -> goto settling
  fi;

refused_by_books:             /* Redis had promised what the books do not have */
  atomic { unload() };
  if
  :: sold >= on_sale[X] || sold >= on_sale[Y] -> decided = rejected; token = 0; goto deciding
  :: else -> goto away
  fi;

cancel:
  atomic { cancel_in_books() };
reading:
  atomic { decided = row[o]; token = counted[o] };
settling:
  atomic { settle() };
  if
  :: fault -> goto settling
  :: fault -> goto died
  :: reply == wished -> goto cancel
  :: reply == lost ->
     accept_lost = 1;
     if :: MUTANT == forgotten_early -> atomic { unload() } :: else fi;
     goto reading
  :: reply == settled && decided == cancelled -> atomic { sync_level(); goto idle }
  :: reply == settled && decided != cancelled -> goto idle
  fi;

away:                         /* a store is away: locks released, the attempt taken back, back into line */
  atomic {
    unlock();
    if :: state[o] == queued && attempts[o] && (decided == confirmed || decided == rejected) -> attempts[o]-- :: else fi;
    message[o] = 1; goto idle
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
  :: atomic { loaded && level < returned -> sync_level() }
  od
}

/* ---- What may happen at any moment ---- */

#define runs_out(s) (lock[s] && !in_hand(lock[s]) && MUTANT != no_expiry)
#define has_begun(each) (PROMPT && ((begun[0] && hand[0] == each) || (begun[1] && hand[1] == each)))

/* accept.lua, for both orders; Redis may go back to it. `loaded` or not: counters may have been saved with it. */
inline accept(each) {
  state[each] = queued; attempts[each] = 0; last[each] = 0; wish[each] = 0; cancelling[each] = 0; held[each] = 0;
  open[each] = (MUTANT != no_journal); message[each] = 1
}

inline accept_both() {
  accept(A); accept(B); unload(); lock[X] = 0; lock[Y] = 0;
  if
  :: stock[X] = on_sale[X]; stock[Y] = on_sale[Y]; loaded = 1
  :: true  /* not loaded yet */
  fi
}

proctype World() {
end:
  do
  :: atomic { runs_out(X) -> lock[X] = 0; printf("the lock of X runs out\n") }
  :: atomic { runs_out(Y) -> lock[Y] = 0; printf("the lock of Y runs out\n") }
  :: atomic { last[A] && !has_begun(A) -> last[A] = 0 }
  :: atomic { last[B] && !has_begun(B) -> last[B] = 0 }
  :: atomic { message[A] && faults > 0 -> faults--; message[A] = 0; printf("the message of order 1 is lost\n") }
  :: atomic { message[B] && faults > 0 -> faults--; message[B] = 0; printf("the message of order 2 is lost\n") }
  :: atomic { rollbacks > 0 -> rollbacks--; promised = 0; accept_both(); printf("Redis goes back\n") }
  od
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

#define oversells(s) (sold > on_sale[s])
#define off_the_counter(each) (held[each] || counted[each])
#define adds_up(s) (stock[s] + off_the_counter(A) + off_the_counter(B) == on_sale[s] + level)
/* Whoever saw a wish to cancel that Redis then forgot may still carry it out, in the books alone: then only units are right. */
#define wishes_forgotten (CANCELS && ROLLBACKS)
#define agree(each) (state[each] == row[each] || wishes_forgotten)
#define true_to_books(each) (state[each] == queued || agree(each) || (state[each] == confirmed && row[each] == cancelled))
#define closed(each) (state[each] != queued && agree(each) && \
                      !held[each] && !open[each] && !cancelling[each] && !wish[each])
#define exact(s) (!loaded || stock[s] + sold == on_sale[s])
#define at_rest (closed(A) && closed(B) && exact(X) && exact(Y) && !lock[X] && !lock[Y] && \
                 (!promised || state[A] != confirmed || wishes_forgotten))

/* Looks at every state: it moves only when something is wrong, or when nobody else can move any more (`timeout`). */
#if !LIVENESS
active proctype Watch() {
end:
  if
  :: atomic { !true_to_books(A) || !true_to_books(B) -> violated(shown_before_the_commit) }
  :: atomic { sold != (row[A] == confirmed) + (row[B] == confirmed) -> violated(units_do_not_add_up) }
  :: atomic { oversells(X) || oversells(Y) -> violated(oversold) }
  :: atomic { rollbacks == ROLLBACKS && (stock[X] < 0 || stock[Y] < 0) -> violated(promised_twice) }
  :: atomic { rollbacks == ROLLBACKS && loaded && (!adds_up(X) || !adds_up(Y)) -> violated(units_do_not_add_up) }
  :: atomic { was_read && (row[A] == cancelled || state[A] == cancelled) -> violated(went_back) }
  /* Whoever settles an order takes its lock from its copies, which have nothing to do any more. */
  :: atomic { PROMPT && !COPIES && inside[0] && inside[1] && hand[0] != hand[1] -> violated(locks_do_not_exclude) }
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
    :: on_sale[X] = 2; on_sale[Y] = 1  /* for one, though one line of the other could be had */
    :: on_sale[X] = 2; on_sale[Y] = 2  /* for both */
    fi;
    accept_both();
    run Worker(0); run Worker(1); run Sweeper(); run World();
    if :: CANCELS -> run Client() :: else fi;
    if :: READS -> run Reader() :: else fi
  }
}
