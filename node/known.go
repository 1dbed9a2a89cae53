package node

import (
	"sync"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/ledger"
)

// lastLeases are the TLS keys of hosts by their last leases, whether or not these go on:
// by them a host is known before it has shown anything. After an outage of all, hosts are
// still told from strangers.
type lastLeases struct {
	mu    sync.RWMutex
	hosts map[keystead.Digest]string // by key
	keys  map[string]keystead.Digest // by host
}

// known reports whether a key is that of a host's last lease.
func (l *lastLeases) known(key keystead.Digest) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	_, ok := l.hosts[key]
	return ok
}

// set notes a host's key; the zero key forgets the host.
func (l *lastLeases) set(host string, key keystead.Digest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.hosts == nil {
		l.hosts, l.keys = map[keystead.Digest]string{}, map[string]keystead.Digest{}
	}
	if old, ok := l.keys[host]; ok && l.hosts[old] == host {
		delete(l.hosts, old)
	}
	delete(l.keys, host)
	if !key.IsZero() {
		l.hosts[key], l.keys[host] = host, key
	}
}

// read learns all of them from the ledger.
func (l *lastLeases) read(v ledger.View) error {
	var failed error
	err := v.JudgedKeys(admit.LeasePrefix, "", func(key string, value ledger.Value) bool {
		host := key[len(admit.LeasePrefix):]
		r, err := admit.ParseRecord(value.Data)
		if err != nil {
			failed = err
			return false
		}
		if e, version, err := admit.Enrolled(v, host); err != nil {
			failed = err
		} else if version != 0 && !e.Revoked {
			l.set(host, keystead.Sum(r.SubjectKey))
		}
		return failed == nil
	})
	if err == nil {
		err = failed
	}
	return err
}

// heard takes note of an effective entry.
func (l *lastLeases) heard(v *ledger.Verdict) {
	for _, w := range v.Writes {
		switch {
		case v.Type == admit.TypeLease && w.Key == admit.LeaseKey(v.Subject):
			if r, err := admit.ParseRecord(w.Value); err == nil {
				l.set(v.Subject, keystead.Sum(r.SubjectKey))
			}
		case v.Type == admit.TypeEnrolment && w.Key == admit.EnrolmentPrefix+v.Subject:
			if e, err := admit.ParseEnrolment(w.Value); err == nil && e.Revoked {
				l.set(v.Subject, keystead.Digest{})
			}
		}
	}
}
