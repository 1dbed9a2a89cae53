package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/keystead/keystead/internal/refusal"
)

// ops answers operators, if the configuration says where: /healthz is 200 while the agent
// runs, /readyz while the host has a lease, /metrics is for Prometheus.
type ops struct {
	agent    *Agent
	registry *prometheus.Registry
	listener net.Listener
	server   *http.Server

	attempts *prometheus.CounterVec
	refusals *prometheus.CounterVec
}

var (
	phaseDesc     = prometheus.NewDesc("keystead_agent_phase", "1 for the phase that the host is in.", []string{"phase"}, nil)
	leftDesc      = prometheus.NewDesc("keystead_agent_lease_left_seconds", "What is left of the lease; 0 without one.", nil, nil)
	exposureDesc  = prometheus.NewDesc("keystead_agent_exposure_seconds", "How long this machine keeps what it has at most once it goes bad.", nil, nil)
	keysDesc      = prometheus.NewDesc("keystead_agent_keys", "Agreed keys that are held.", nil, nil)
	connectedDesc = prometheus.NewDesc("keystead_agent_node_connected", "1 while this host is connected to the node.", []string{"node"}, nil)
)

// newOps makes the counters, and listens if an address is given.
func newOps(a *Agent, listen, build string) (*ops, error) {
	o := &ops{agent: a, registry: prometheus.NewRegistry(),
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "keystead_agent", Name: "attempts_total", Help: "Attempts to show evidence for a lease, by purpose and outcome."}, []string{"purpose", "outcome"}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "keystead_agent", Name: "refusals_total", Help: "Findings in refusals of evidence, by reason."}, []string{"reason"})}
	parts := append(strings.Fields(build), "unknown", "unknown", "unknown")
	info := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "keystead", Name: "build_info", Help: "1, with the version, commit and digest of the running program.",
		ConstLabels: prometheus.Labels{"version": parts[0], "commit": parts[1], "digest": parts[2]}}, func() float64 { return 1 })
	o.registry.MustRegister(o, o.attempts, o.refusals, info, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if listen == "" {
		return o, nil
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return nil, err
	}
	o.listener = l
	return o, nil
}

// register adds a part's metrics, which have names of the agent's.
func (o *ops) register(c prometheus.Collector) error {
	described := make(chan *prometheus.Desc, 64)
	go func() { c.Describe(described); close(described) }()
	var wrong error
	for d := range described {
		if !strings.Contains(d.String(), `fqName: "keystead_agent_`) {
			wrong = fmt.Errorf("a metric's name does not begin with keystead_agent_: %v", d)
		}
	}
	if wrong != nil {
		return wrong
	}
	return o.registry.Register(c)
}

// tried counts what came of an attempt.
func (o *ops) tried(purpose string, err error) {
	outcome := "proved"
	switch {
	case err == nil:
	case passing(err):
		outcome = "unavailable"
	default:
		outcome = "refused"
	}
	o.attempts.WithLabelValues(purpose, outcome).Inc()
	if deny := refusal.Deny(err); deny != nil {
		for _, f := range deny.Findings {
			if f.Reason.Known() { // nodes choose the words
				o.refusals.WithLabelValues(string(f.Reason)).Inc()
			}
		}
	}
}

// Describe implements prometheus.Collector.
func (o *ops) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{phaseDesc, leftDesc, exposureDesc, keysDesc, connectedDesc} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (o *ops) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	truth := map[bool]float64{true: 1}
	s := o.agent.Status()
	for _, p := range Phases() {
		gauge(phaseDesc, truth[string(p) == s.GetPhase()], string(p))
	}
	gauge(leftDesc, float64(s.GetLeftMs())/1000)
	gauge(exposureDesc, float64(s.GetExposureMs())/1000)
	gauge(keysDesc, float64(s.GetKeys()))
	for _, n := range s.GetNodes() {
		gauge(connectedDesc, truth[n.GetConnected()], n.GetName())
	}
}

// serve answers until stop.
func (o *ops) serve() {
	if o.listener == nil {
		return
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if phase := o.agent.Status().GetPhase(); phase != string(Admitted) {
			http.Error(w, phase, http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(o.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	o.server = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10}
	o.agent.tasks.Go(func() {
		if err := o.server.Serve(o.listener); !errors.Is(err, http.ErrServerClosed) {
			o.agent.log.Error("operators are no longer answered", "because", err)
		}
	})
}

// stop ends what serve began.
func (o *ops) stop() error {
	switch {
	case o == nil || o.listener == nil:
		return nil
	case o.server == nil:
		return o.listener.Close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return errors.Join(o.server.Shutdown(ctx), o.server.Close())
}
