package node

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/keyring"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/part"
)

// agreement takes part in the rounds by which nodes agree on secrets: every node
// contributes to what is open, and the leader opens what is due and closes what failed.
type agreement struct {
	node    *guard
	arrived func(node string) time.Time // when its last tick came
	keyring *keyring.Ring
	vault   vault
	wake    chan struct{}

	// of the loop alone
	runs   map[keyring.RoundID]*run
	faults faults                        // of other nodes
	opened map[keyring.Purpose]time.Time // rounds that this node opened and has not seen yet
	begun  time.Time                     // when this node began to lead; zero while it does not
	told   string                        // why keys are not agreed on, as it was logged last; "" if they are
}

// How rounds are driven.
const (
	roundPatience = 10 * time.Second       // for a node to commit or reveal, and for a proposal to take effect
	silentAfter   = 5 * time.Second        // without a tick by a node, it is not counted on
	keepRecords   = 30 * time.Second       // of a round that had an outcome, for nodes that are late
	roundEvery    = 500 * time.Millisecond // at least so often rounds are looked at
	proposeLate   = 2 * time.Second        // for the leader to propose, before others do
	proposeAgain  = 3 * time.Second
	openAgain     = 2 * time.Second      // a round that was opened and is not to be seen
	shownDelay    = 2 * time.Millisecond // what is applied shows in the state a little later
	maxRound      = 400 << 10            // bytes of values in one transaction
)

// init makes the ring, with what the vault has of the epoch's secret.
func (a *agreement) init(ctx context.Context, n *guard, arrived func(node string) time.Time, s Sealer) (err error) {
	a.arrived = arrived
	a.node, a.wake, a.vault = n, make(chan struct{}, 1), vault{n.cfg.Dir, s}
	a.runs, a.opened = map[keyring.RoundID]*run{}, map[keyring.Purpose]time.Time{}
	if a.keyring, err = keyring.NewRing(n.cfg.Domain, n.name, signerOf{n}, rand.Reader); err != nil {
		return err
	}
	held, err := a.vault.load(ctx)
	if err == nil && held != nil {
		err = a.keyring.Restore(held)
	}
	if err != nil {
		n.log.Warn("the epoch's secret is lost here; this node asks for another epoch", "because", err)
	}
	return nil
}

// signerOf signs by the key that a node has now.
type signerOf struct{ *guard }

// Sign implements keyring.Signer. Without a key in the roster the signature is none,
// and what carries it counts for nothing.
func (s signerOf) Sign(message []byte) (none key.NodeSignature) {
	k, err := s.signer()
	if err != nil {
		return none
	}
	return k.Sign(message)
}

// ring has the loop look at the rounds, soon.
func (a *agreement) ring() {
	time.AfterFunc(shownDelay, func() {
		select {
		case a.wake <- struct{}{}:
		default:
		}
	})
}

// onLedger is the ledger as rounds see it.
type onLedger struct{ ledger.View }

// Judged implements keyring.State.
func (s onLedger) Judged(key string) (keyring.Value, error) {
	return s.View.Judged(key)
}

// Record implements keyring.State.
func (s onLedger) Record(key string) (keyring.Value, error) {
	return s.View.Get(key)
}

func (a *agreement) standing() keyring.Standing {
	roster, sequence, _ := a.node.machine.roster()
	return keyring.Standing{Roster: roster, Sequence: sequence}
}

// judges are this node's judging functions: they compute what others propose by
// this node's own secrets.
func (a *agreement) judges() []part.JudgedType {
	with := func(judge func(st onLedger, at *keyring.Standing, p *ledger.Proposal) ([]keyring.Write, error)) part.Judge {
		return func(_ context.Context, h *part.Hearing, out *ledger.Verdict) error {
			return h.Read(func(v ledger.View) error {
				at := a.standing()
				writes, err := judge(onLedger{v}, &at, h.Proposal)
				for _, w := range writes {
					out.Writes = append(out.Writes, ledger.Write{Key: w.Key, Value: w.Data})
				}
				return err
			})
		}
	}
	return []part.JudgedType{
		{Type: keyring.EpochType, Judge: with(func(st onLedger, at *keyring.Standing, p *ledger.Proposal) ([]keyring.Write, error) {
			return a.keyring.JudgeEpoch(st, at, p.Subject, p.Content)
		})},
		{Type: keyring.KeyType, Judge: with(func(st onLedger, at *keyring.Standing, p *ledger.Proposal) ([]keyring.Write, error) {
			return a.keyring.JudgeKey(st, at, p.Subject, p.Content)
		})},
		{Type: keyring.KeyspecType, Statement: key.KindKeyspec, Newer: []key.Kind{key.KindServiceKey}, Judge: with(func(st onLedger, at *keyring.Standing, p *ledger.Proposal) ([]keyring.Write, error) {
			return keyring.JudgeSpec(st, &at.Roster, a.node.cfg.Domain, p.Subject, p.Base, p.Content)
		})},
	}
}

func (a *agreement) loop() {
	every := time.NewTicker(roundEvery)
	defer every.Stop()
	for {
		select {
		case <-a.wake:
		case <-every.C:
		case <-a.node.running.Done():
			return
		}
		at := a.standing()
		if _, err := a.node.signer(); err != nil {
			continue // not founded yet, or not in the roster, or not by this key
		}
		if err := a.turn(&at); a.node.running.Err() == nil {
			a.tell(err)
		}
	}
}

// tell logs why keys are not agreed on: once, and again when there is another reason.
func (a *agreement) tell(err error) {
	level, why := slog.LevelWarn, ""
	if err != nil {
		why = err.Error()
	}
	if deny := (*keystead.DenyError)(nil); errors.As(err, &deny) {
		why = "" // times and places change from turn to turn
		for _, f := range deny.Findings {
			why += string(f.Reason) + " "
		}
	}
	if why == a.told {
		level = slog.LevelDebug
	}
	switch a.told = why; {
	case err != nil:
		a.node.log.Log(a.node.running, level, "keys are not agreed on", "because", err)
	case level == slog.LevelWarn:
		a.node.log.Info("keys are agreed on again")
	}
}

// turn does once what there is to do.
func (a *agreement) turn(at *keyring.Standing) error {
	s := a.node.replica.Status()
	leads := s.Leader == s.ID
	switch {
	case !leads:
		a.begun = time.Time{}
	case a.begun.IsZero():
		a.begun = time.Now()
	}
	var todo todo
	err := a.node.snapshot(func(v ledger.View) error { return a.look(onLedger{v}, at, leads, &todo) })
	if todo.fresh {
		if err := a.vault.keep(context.WithoutCancel(a.node.running), a.keyring.Held()); err != nil {
			a.node.log.Warn("the epoch's secret is in memory only", "because", err)
		}
		a.node.log.Info("holds the secret of a new epoch")
	}
	return errors.Join(err, a.write(todo.writes), a.propose(todo.proposals))
}

// todo is what a look at the state found to be done.
type todo struct {
	fresh     bool // the ring has a new secret
	writes    []record
	proposals []*ledger.Proposal
}

// record is a write. A record of a round is written once: to write it again would
// make it later than it was.
type record struct {
	ledger.Write
	once bool
}

func (t *todo) put(w keyring.Write, once bool) {
	t.writes = append(t.writes, record{ledger.Write{Key: w.Key, Value: w.Data}, once})
}

// look goes through the state of one moment.
func (a *agreement) look(st onLedger, at *keyring.Standing, leads bool, out *todo) (err error) {
	if out.fresh, err = a.keyring.Settle(st); err != nil && !errors.Is(err, keystead.ReasonSecretMissing) {
		a.node.log.Debug("the epoch's secret could not be had", "because", err)
	}
	own, err := a.keyring.Announce(st)
	if err != nil {
		return err
	}
	if own != nil {
		out.put(*own, false)
	}
	open, keys, err := a.list(st)
	if err == nil {
		err = a.watch(st, at)
	}
	if err != nil {
		return err
	}
	for id := range a.runs {
		if _, there := open[id]; !there {
			delete(a.runs, id)
		}
	}
	for id, opening := range open {
		a.advance(st, at, a.run(st, at, id, opening), leads, out)
	}
	if leads {
		return a.open(st, at, keys, out)
	}
	return nil
}

// list returns the openings on the ledger and the names of the specified keys.
func (a *agreement) list(st onLedger) (open map[keyring.RoundID][]byte, keys []string, err error) {
	open = map[keyring.RoundID][]byte{}
	err = st.Keys(keyring.RoundPrefix, func(key string, v ledger.Value) bool {
		if id, ok := keyring.ParseOpenKey(key); ok {
			open[id] = v.Data
		}
		return true
	})
	if err != nil {
		return nil, nil, err
	}
	err = st.JudgedKeys(keyring.KeyspecType+"/", "", func(key string, _ ledger.Value) bool {
		keys = append(keys, strings.TrimPrefix(key, keyring.KeyspecType+"/"))
		return true
	})
	return open, keys, err
}

// write puts records on the ledger, in as few transactions as they fit. What another look
// finds written already is no error.
func (a *agreement) write(records []record) error {
	for len(records) > 0 {
		var writes []ledger.Write
		var conditions []ledger.Condition
		for size := 0; len(records) > 0 && len(writes) < 256 && (size == 0 || size+len(records[0].Value) < maxRound); records = records[1:] {
			size += len(records[0].Value) + len(records[0].Key)
			writes = append(writes, records[0].Write)
			if records[0].once {
				conditions = append(conditions, ledger.Condition{Key: records[0].Key})
			}
		}
		ctx, cancel := context.WithTimeout(a.node.running, 5*time.Second)
		err := a.node.transact(ctx, keyring.Contract, writes, conditions...)
		cancel()
		if err != nil && !errors.Is(err, keystead.ReasonConditionFailed) {
			return err
		}
	}
	return nil
}

// propose hands in what rounds came to, all at once; the courts do the rest.
func (a *agreement) propose(proposals []*ledger.Proposal) error {
	errs := make([]error, len(proposals))
	var wg sync.WaitGroup
	for i, p := range proposals {
		wg.Go(func() {
			_, _ = rand.Read(p.ID[:]) // never fails
			entry, err := p.Entry()
			if err == nil {
				ctx, cancel := context.WithTimeout(a.node.running, 5*time.Second)
				_, err = a.node.propose(ctx, entry)
				cancel()
			}
			if !errors.Is(err, keystead.ReasonSubjectChanged) { // another's took effect
				errs[i] = err
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
