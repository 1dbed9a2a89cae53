package node

import (
	"crypto/rand"
	"fmt"
	"slices"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/keyring"
	"github.com/keystead/keystead/ledger"
)

// run is a round as this node goes through it.
type run struct {
	id      keyring.RoundID
	round   *keyring.Round // nil: refused
	purpose keyring.Purpose
	seen    time.Time // when this node first saw it
	doing   keyring.Action
	missing string    // for whom it waits
	since   time.Time // in this phase
	sent    time.Time // its proposal, by this node
	failed  bool
	over    time.Time // when its purpose was found to be served
}

// run returns the run of an opening, and joins it if it is new.
func (a *agreement) run(st onLedger, at *keyring.Standing, id keyring.RoundID, opening []byte) *run {
	if r := a.runs[id]; r != nil {
		return r
	}
	now := time.Now()
	r := &run{id: id, seen: now, since: now}
	a.runs[id] = r
	round, err := a.keyring.Join(st, at, opening, rand.Reader)
	if err != nil {
		a.node.log.Debug("round not joined", "round", id, "because", err)
		return r
	}
	r.round, r.purpose = round, round.Purpose()
	delete(a.opened, r.purpose)
	return r
}

// advance does what a round asks for next.
func (a *agreement) advance(st onLedger, at *keyring.Standing, r *run, leads bool, out *todo) {
	now := time.Now()
	if r.round == nil || r.failed {
		if leads && now.Sub(r.seen) > keepRecords {
			a.close(st, r, out)
		}
		return
	}
	if !r.over.IsZero() { // only an epoch's records may still be of use, to nodes that are late
		if leads && (!r.purpose.IsEpoch() || now.Sub(r.over) > keepRecords) {
			a.close(st, r, out)
		}
		return
	}
	step, err := r.round.Next(st, at)
	if err != nil {
		a.node.log.Warn("round stopped", "round", r.id, "purpose", r.purpose, "because", err)
		r.failed = true
		return
	}
	if missing := fmt.Sprint(step.Missing); step.Do != r.doing || step.Do == keyring.Wait && missing != r.missing {
		r.doing, r.missing, r.since = step.Do, missing, now
	}
	late := now.Sub(r.since) > roundPatience
	switch step.Do {
	case keyring.Commit, keyring.Reveal:
		out.put(step.Write, true)
	case keyring.Wait:
		if late {
			a.fail(st, r, step.Missing, keystead.Deny(keystead.Finding{Reason: keystead.ReasonRoundSilent, Where: r.purpose.String(),
				Want: "commitments, then reveals, of all within " + roundPatience.String(), Got: "none by " + r.missing}), leads, out)
		}
	case keyring.Failed:
		a.fail(st, r, []string{step.Blame}, step.Err, leads, out)
	case keyring.Propose:
		if late && leads {
			a.fail(st, r, nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonMajorityMissing, Where: r.purpose.String(),
				Want: "endorsements of what the round came to", Got: "too few within " + roundPatience.String()}), leads, out)
			return
		}
		a.conclude(st, r, step.Outcome, leads, out)
	case keyring.Over:
		r.over = now
		if leads && !r.purpose.IsEpoch() {
			a.close(st, r, out)
		}
	}
}

// conclude proposes the outcome, as leader at once, else when the leader is late.
func (a *agreement) conclude(st onLedger, r *run, o keyring.Outcome, leads bool, out *todo) {
	if o.Content == nil || !leads && time.Since(r.since) < proposeLate || time.Since(r.sent) < proposeAgain {
		return
	}
	p := &ledger.Proposal{Type: keyring.EpochType, Subject: keyring.CurrentEpoch, Content: o.Content}
	if !o.Purpose.IsEpoch() {
		p.Type, p.Subject = keyring.KeyType, o.Purpose.Key
	}
	var err error
	if p.Base, err = st.Subject(p.Type, p.Subject); err != nil {
		a.node.log.Warn("outcome not proposed", "purpose", r.purpose, "because", err)
		return
	}
	r.sent = time.Now()
	out.proposals = append(out.proposals, p)
}

// fail names who let a round fail, which every node remembers: they are left out for a
// while, save who only was started again. The leader closes the round, so that another
// is opened. What a node's own signatures prove against it, and what it does again and
// again, is an alarm.
func (a *agreement) fail(st onLedger, r *run, who []string, why error, leads bool, out *todo) {
	r.failed = true
	a.node.log.Warn("round failed", "round", r.id, "purpose", r.purpose, "nodes", who, "because", why)
	for _, name := range who {
		if name == "" {
			continue
		}
		spare := a.faults.blame(name, why, time.Now())
		if spare > spareFor || spare > 0 && proven(why) {
			a.node.alarm("a node spoils rounds", "node", name, "round", r.id, "left-out", spare, "because", why)
		}
	}
	if leads {
		a.close(st, r, out)
	}
}

// alarm says what people must look at.
func (n *core) alarm(what string, about ...any) {
	n.metrics.alarms.Inc()
	n.log.Error("alarm: "+what, about...)
}

// watch takes note of who says that it lacks the secret, which makes for an epoch each
// time.
func (a *agreement) watch(st onLedger, at *keyring.Standing) error {
	epoch, nodes, err := a.keyring.Lacking(st, at)
	for _, name := range nodes {
		if a.faults.lacks(name, epoch, time.Now()) {
			a.node.alarm("a node asks for epochs again and again", "node", name, "epoch", epoch, "more-than", lacksFree, "within", lackWithin)
		}
	}
	return err
}

// close deletes the records of a round.
func (a *agreement) close(st onLedger, r *run, out *todo) {
	err := st.Keys(keyring.RoundPrefix+r.id.String()+"/", func(key string, _ ledger.Value) bool {
		out.writes = append(out.writes, record{ledger.Write{Key: key, Delete: true}, false})
		return true
	})
	if err != nil {
		a.node.log.Warn("round not closed", "round", r.id, "because", err)
	}
}

// open opens the rounds that are due and not under way.
func (a *agreement) open(st onLedger, at *keyring.Standing, keys []string, out *todo) error {
	now := time.Now()
	var live []string
	for _, n := range at.Nodes {
		if n.Name == a.node.name || now.Sub(a.begun) < silentAfter || now.Sub(a.arrived(n.Name)) < silentAfter {
			live = append(live, n.Name)
		}
	}
	skipped := a.faults.skipped(live, at.Majority(), now)
	skip := func(name string) bool { return skipped[name] || !slices.Contains(live, name) }
	due, err := a.keyring.Due(st, at, keyring.Plan{Keys: keys, Skip: skip, Patient: now.Sub(a.begun) < roundPatience}, rand.Reader)
	if err != nil {
		return err
	}
	for i := range due {
		p := due[i].Purpose
		if a.underWay(p) || now.Sub(a.opened[p]) < openAgain {
			continue
		}
		a.opened[p] = now
		out.put(keyring.Write{Key: due[i].Round.OpenKey(), Data: due[i].Bytes()}, true)
		a.node.log.Info("round opened", "round", due[i].Round, "purpose", due[i].Purpose)
	}
	return nil
}

func (a *agreement) underWay(p keyring.Purpose) bool {
	for _, r := range a.runs {
		if r.round != nil && !r.failed && r.purpose == p {
			return true
		}
	}
	return false
}
