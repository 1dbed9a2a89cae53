package node

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/internal/refusal"
)

// metrics are what a node tells of itself to Prometheus, in a registry of its own.
type metrics struct {
	registry    *prometheus.Registry
	requests    *prometheus.HistogramVec
	alarms      prometheus.Counter
	checkpoints prometheus.Counter
	refusals    *prometheus.CounterVec
	limits      *prometheus.CounterVec
}

// gauges are read from the node's status when they are asked for.
var gauges = []struct {
	name, help string
	value      func(*apiv1.StatusResponse) float64
}{
	{"leader", "1 while this node leads.", func(s *apiv1.StatusResponse) float64 { return truth(s.GetRole() == "leader") }},
	{"led", "1 while this node knows a leader.", func(s *apiv1.StatusResponse) float64 { return truth(s.GetLeader() != "") }},
	{"clock_fresh", "1 while the domain clock keeps up with this node's own.", func(s *apiv1.StatusResponse) float64 { return truth(s.GetFresh()) }},
	{"term", "Raft term.", func(s *apiv1.StatusResponse) float64 { return float64(s.GetTerm()) }},
	{"committed_index", "Last committed log entry.", func(s *apiv1.StatusResponse) float64 { return float64(s.GetCommitted()) }},
	{"applied_index", "Last applied log entry.", func(s *apiv1.StatusResponse) float64 { return float64(s.GetApplied()) }},
	{"tree_size", "Leaves of the ledger's tree.", func(s *apiv1.StatusResponse) float64 { return float64(s.GetTreeSize()) }},
	{"checkpoint_size", "Leaves under the newest checkpoint that a majority signed.", func(s *apiv1.StatusResponse) float64 { return float64(s.GetCheckpointSize()) }},
	{"domain_clock_seconds", "Domain clock, Unix seconds.", func(s *apiv1.StatusResponse) float64 { return float64(s.GetDomainClockMs()) / 1000 }},
	{"members", "Members of the replica group.", func(s *apiv1.StatusResponse) float64 { return float64(len(s.GetPeers())) }},
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func newMetrics(n *Node) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: "keystead", Name: "request_seconds",
			Help: "Time of API requests by procedure and outcome.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14)}, []string{"procedure", "code"}),
		alarms:      prometheus.NewCounter(prometheus.CounterOpts{Namespace: "keystead", Name: "alarms_total", Help: "Contradictions among nodes that this node applied."}),
		checkpoints: prometheus.NewCounter(prometheus.CounterOpts{Namespace: "keystead", Name: "checkpoints_total", Help: "Checkpoints that a majority completed or a further node signed."}),
	}
	m.refusals = prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "keystead", Name: "refusals_total", Help: "Findings in refusals that API requests were answered with, by reason."}, []string{"reason"})
	m.limits = prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "keystead", Name: "limited_total",
		Help: "Connections and requests that a limit turned away, by class of caller and reason."}, []string{"class", "reason"})
	m.registry.MustRegister(m.requests, m.alarms, m.checkpoints, m.limits, m.refusals, &census{node: n}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for name, g := range map[string]struct {
		help  string
		value func() float64
	}{
		"archive_records":    {"Admissions whose evidence is archived here.", func() float64 { records, _ := n.archivist.archives.usage(); return float64(records) }},
		"archive_bytes":      {"Bytes of archived evidence.", func() float64 { _, size := n.archivist.archives.usage(); return float64(size) }},
		"disk_low":           {"1 while the room where the node's directory is runs out: less than twice the reserve.", func() float64 { _, _, low, _ := n.doors.disk.state(); return truth(low) }},
		"disk_reserve_bytes": {"Bytes that the node holds in reserve for what keeps leases.", func() float64 { _, held, _, _ := n.doors.disk.state(); return float64(held) }},
		"stable_position":    {"Log index of the last position at which a majority came to one state.", func() float64 { return float64(n.machine.stable()) }},
	} {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "keystead", Name: name, Help: g.help}, g.value))
	}
	for _, state := range closedStates {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "keystead", Name: "closed", ConstLabels: prometheus.Labels{"state": string(state)},
			Help: "1 while this node is in a state in which it does not serve, by the state's name."}, func() float64 { return truth(n.closed.err(state) != nil) }))
	}
	for _, g := range gauges {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "keystead", Name: g.name, Help: g.help},
			func() float64 { return g.value(n.Status()) }))
	}
	return m
}

// heard counts what was applied.
func (m *metrics) heard(h heard) {
	m.alarms.Add(float64(len(h.alarms)))
	if h.completed {
		m.checkpoints.Inc()
	}
}

// refused counts what a request was refused for.
func (m *metrics) refused(err error) {
	deny := refusal.Deny(err)
	if deny == nil {
		return
	}
	for _, f := range deny.Findings {
		if f.Reason.Known() { // of another build's node: no label of its making
			m.refusals.WithLabelValues(string(f.Reason)).Inc()
		}
	}
}

// observe counts an answered request.
func (m *metrics) observe(procedure, code string, took time.Duration) {
	m.requests.WithLabelValues(procedure, code).Observe(took.Seconds())
}

// limited counts what a limit turned away.
func (m *metrics) limited(class, reason string) { m.limits.WithLabelValues(class, reason).Inc() }
