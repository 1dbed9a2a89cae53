package node

import (
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/ledger"
)

// Kinds of standing that the census counts.
const (
	standingAdmitted  = "admitted"
	standingSuspended = "suspended"
	standingExpired   = "expired"
	standingRevoked   = "revoked"
	standingNever     = "never-admitted"
)

// counted is how hosts stood at one moment of the ledger.
type counted struct {
	hosts map[string]float64 // by standing
	left  time.Duration      // of the lease that ends next; 0 if there is none
}

// census counts hosts for metrics, when they are asked for. It looks at every enrolment, so
// it rests after each count: at least for ten seconds, and twenty times as long as the
// count took. In between it tells the last one.
type census struct {
	node *Node

	mu   sync.Mutex
	last counted
	next time.Time
}

// Times that a census rests.
const (
	censusRest  = 10 * time.Second
	censusShare = 20
)

var (
	hostsDesc = prometheus.NewDesc("keystead_hosts", "Enrolled hosts by how they stand, as of at most a while ago.", []string{"standing"}, nil)
	leftDesc  = prometheus.NewDesc("keystead_lease_next_expiry_seconds", "Time left of the lease that ends next unless it is renewed, on the domain clock; absent without leases.", nil, nil)
	freeDesc  = prometheus.NewDesc("keystead_disk_free_bytes", "Room left where the node's directory is.", nil, nil)
	sizeDesc  = prometheus.NewDesc("keystead_disk_size_bytes", "Size of the file system of the node's directory.", nil, nil)
	buildDesc = prometheus.NewDesc("keystead_build_info", "1, with the version, commit and digest of the running program.", []string{"version", "commit", "digest"}, nil)
)

// Describe implements prometheus.Collector.
func (c *census) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{hostsDesc, leftDesc, freeDesc, sizeDesc, buildDesc} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (c *census) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(buildDesc, 1, buildLabels(c.node.opts.Version)...)
	if free, size, err := room(c.node.cfg.Dir); err == nil {
		gauge(freeDesc, float64(free))
		gauge(sizeDesc, float64(size))
	}
	if !c.node.isUp() {
		return
	}
	now, err := c.count()
	if err != nil {
		c.node.log.Debug("hosts are not counted", "because", err)
		return
	}
	for standing, n := range now.hosts {
		gauge(hostsDesc, n, standing)
	}
	if now.left > 0 {
		gauge(leftDesc, now.left.Seconds())
	}
}

// buildLabels takes the parts of a program's name apart: version, commit, digest.
func buildLabels(version string) []string {
	parts := strings.Fields(version)
	for len(parts) < 3 {
		parts = append(parts, "unknown")
	}
	return parts[:3]
}

// count looks at the ledger, or returns what it saw last.
func (c *census) count() (counted, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	began := time.Now()
	if began.Before(c.next) {
		return c.last, nil
	}
	out := counted{hosts: map[string]float64{standingAdmitted: 0, standingSuspended: 0, standingExpired: 0, standingRevoked: 0, standingNever: 0}}
	err := c.node.snapshot(func(v ledger.View) error { return out.look(v) })
	if err != nil {
		return counted{}, err
	}
	c.last, c.next = out, time.Now().Add(max(censusRest, censusShare*time.Since(began)))
	return out, nil
}

// look counts every enrolment of the state.
func (c *counted) look(v ledger.View) error {
	status, err := v.Status()
	if err != nil {
		return err
	}
	var names []string
	err = v.JudgedKeys(admit.EnrolmentPrefix, "", func(key string, _ ledger.Value) bool {
		names = append(names, key[len(admit.EnrolmentPrefix):])
		return true
	})
	for _, name := range names {
		if err != nil {
			return err
		}
		var st admit.Standing
		if st, err = admit.Look(v, name); err == nil && st.Enrolment != nil {
			c.add(&st, status.Clock)
		}
	}
	return err
}

func (c *counted) add(st *admit.Standing, clock uint64) {
	switch {
	case st.Enrolment.Revoked:
		c.hosts[standingRevoked]++
	case st.Record == nil:
		c.hosts[standingNever]++
	case st.Suspension != nil:
		c.hosts[standingSuspended]++
	case st.Until <= clock:
		c.hosts[standingExpired]++
	default:
		c.hosts[standingAdmitted]++
		if left := time.Duration(st.Until-clock) * time.Millisecond; c.left == 0 || left < c.left {
			c.left = left
		}
	}
}
