package node

import (
	"slices"
	"sync"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/ledger"
)

// suspending are the suspensions that this node has on their way, so that it sends one.
type suspending struct {
	mu    sync.Mutex
	hosts map[string]uint64
}

func (s *suspending) begin(host string, version uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hosts[host] >= version {
		return false
	}
	if s.hosts == nil {
		s.hosts = map[string]uint64{}
	}
	s.hosts[host] = version
	return true
}

func (s *suspending) end(host string) {
	s.mu.Lock()
	delete(s.hosts, host)
	s.mu.Unlock()
}

// turnedBad suspends the lease of a host against which a decision speaks.
func (n *admission) turnedBad(host string, d admit.Decision, because error) {
	if !d.Against() {
		return
	}
	n.replayed.drop(host)
	var verdict keystead.Digest
	if b := d.Verdict().Bytes(); b != nil {
		verdict = keystead.Sum(b)
	}
	n.suspend(host, because, verdict)
}

// suspend ends a host's lease on this node's word, if it has one that is not over. It
// does not wait for it to take effect. Should the host be admitted anew meanwhile, on
// evidence from before this moment, that lease is ended too.
func (n *admission) suspend(host string, because error, verdict keystead.Digest) {
	version, now, err := n.suspendable(host, ^uint64(0))
	if err != nil {
		n.log.Error("lease not looked up", "host", host, "because", err)
		return
	}
	if version == 0 || !n.suspending.begin(host, version) {
		return
	}
	n.log.Warn("lease suspended", "host", host, "lease", version, "because", because)
	n.background(func() {
		defer n.suspending.end(host)
		for ended := uint64(0); version != 0 && version != ended && n.running.Err() == nil; {
			ended = version
			n.retry1(func() ([]byte, error) {
				k, err := n.signer()
				if err != nil {
					return nil, err
				}
				s := ledger.Suspend(k, n.name, n.cfg.Domain, host, ended, because.Error(), verdict)
				return s.Entry()
			})
			select {
			case <-time.After(suspendAgain):
			case <-n.running.Done():
			}
			if version, _, err = n.suspendable(host, now); err != nil {
				n.log.Error("lease not looked up", "host", host, "because", err)
				return
			}
		}
	})
}

// suspendAgain is how long after a suspension the host is looked at once more, when
// everything shows that was applied before it.
const suspendAgain = 100 * time.Millisecond

// suspendable returns the version of a host's lease that is neither over nor suspended,
// and was given on no evidence from after a time; 0 for none. Clock is the domain clock.
func (n *admission) suspendable(host string, by uint64) (version, clock uint64, err error) {
	err = n.snapshot(func(v ledger.View) error {
		st, err := admit.Look(v, host)
		clock = st.Clock
		if err == nil && st.Record != nil && st.Suspension == nil && st.Clock < st.Until && st.Record.Issued <= by {
			version = st.Version
		}
		return err
	})
	return version, clock, err
}

// retry1 proposes an entry until the log took it or refused it, or the node stops.
func (n *core) retry1(entry func() ([]byte, error)) {
	for n.running.Err() == nil && !n.proposeOwn(entry) {
		select {
		case <-n.running.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// consequences suspends the leases that an effective entry ends: of a host whose
// enrolment was revoked or changed, of machines on the deny list. The leader does so at
// once, another node if the leader is late.
func (n *admission) consequences(v *ledger.Verdict) {
	if v.Type != admit.TypeEnrolment && v.Type != admit.TypeDenial {
		return
	}
	kind, subject := v.Type, v.Subject
	n.background(func() {
		if s := n.replica.Status(); s.Leader != s.ID {
			select {
			case <-time.After(courtLate):
			case <-n.running.Done():
				return
			}
		}
		if err := n.endLeases(kind, subject); err != nil {
			n.log.Error("leases not looked up", "because", err)
		}
	})
}

// endLeases suspends what leases a judged subject ends, as soon as the state shows it.
func (n *admission) endLeases(kind, subject string) error {
	var ended []admit.Standing
	err := n.snapshot(func(v ledger.View) error {
		if kind == admit.TypeEnrolment {
			st, err := admit.Look(v, subject)
			ended = append(ended, st)
			return err
		}
		var failed error
		err := v.JudgedKeys(admit.LeasePrefix, "", func(key string, value ledger.Value) bool {
			r, err := admit.ParseRecord(value.Data)
			if err != nil || !slices.Contains(r.Denials, subject) {
				failed = err
				return err == nil
			}
			st, err := admit.Look(v, key[len(admit.LeasePrefix):])
			ended = append(ended, st)
			failed = err
			return err == nil
		})
		if err == nil {
			err = failed
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, st := range ended {
		if st.Err != nil && st.Record != nil && st.Suspension == nil {
			n.suspend(st.Host, st.Err, keystead.Digest{})
		}
	}
	return nil
}
