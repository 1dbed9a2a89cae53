package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/part"
	"github.com/keystead/keystead/replica"
	"github.com/keystead/keystead/serve"
)

// A front is a listener with the HTTP server behind it.
type front struct {
	listener net.Listener
	server   *http.Server
}

// maxOperators is how many connections for health and metrics there may be.
const maxOperators = 64

// openFronts listens on all addresses, so that a port that is taken shows at once.
// Nothing is served yet.
func (n *Node) openFronts() error {
	for _, address := range []string{n.cfg.Peer.Listen, n.cfg.API.Listen, n.cfg.Ops.Listen} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		n.fronts = append(n.fronts, &front{listener: l})
	}
	api := &n.cfg.API
	n.crowd = newCrowd(n.fronts[1].listener, api.MaxStrangers, api.PerAddress, api.MaxConnections, n.limited.note)
	n.fronts[1].listener = n.crowd
	n.fronts[2].listener = newHall(n.fronts[2].listener, "connections of operators", maxOperators, n.limited.note)
	return nil
}

// connectPeers is the replica's transport: connections that evidence secures, or mutual
// TLS with pinned keys where the domain asks for none.
func (n *Node) connectPeers(h replica.Handler) (replica.Transport, error) {
	l := n.fronts[0].listener
	n.fronts[0].listener = nil // the transport closes it
	opts := replica.TLSOptions{Guard: n.self.Peer, Listener: l, Log: n.log}
	if n.gate != nil {
		opts.Guard, opts.MaxAge = memberGuard{n}, n.cfg.TPM.most()
	}
	t, err := replica.ListenTLS(opts)(h)
	if err == nil && n.opts.lies.transport != nil {
		t = n.opts.lies.transport(t)
	}
	return t, err
}

// serve starts answering clients and operators. Until this node has its place among the others
// it says why it has none.
func (n *Node) serve() error {
	if n.cfg.API.OpenWrites {
		n.log.Warn("anybody who reaches the API may write under kv/ (api.open-writes)", "api", n.cfg.API.Listen)
	}
	api := serve.New(n.assembly.procedures(), *n.serving())
	var shake *tls.Config
	inner := n.fronts[1].listener
	switch {
	case n.cfg.API.Plain:
	case n.gate != nil:
		var err error
		if inner, err = n.attestedListener(inner); err != nil {
			return err
		}
	default:
		shake = n.apiTLS()
		shake.NextProtos = []string{"h2", "http/1.1"}
	}
	parts := newParting(inner, n.crowd, shake, n.whoConnects)
	n.fronts[1].listener = parts.others()
	n.fronts = append(n.fronts, &front{listener: parts.strangers()})
	n.start(n.fronts[1], n.server(api, othersHTTP))
	n.start(n.fronts[3], n.server(api, strangersHTTP))
	n.start(n.fronts[2], &http.Server{Handler: n.ops(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second,
		WriteTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10})
	return nil
}

// serving returns how the API answers.
func (n *Node) serving() *serve.Options {
	return &serve.Options{
		InFlight: n.cfg.API.MaxInFlight,
		Rate:     n.cfg.API.MaxRate,
		Timeout:  time.Duration(n.cfg.API.TimeoutMS) * time.Millisecond,
		Evidence: n.cfg.Evidence.bounds(),
		Failed:   func(err error) { n.log.Error("request failed", "because", err) },
		Observe:  func(procedure, code string, took time.Duration) { n.metrics.observe(procedure, code, took) },
		Refused:  func(err error) { n.metrics.refused(err) },
		Ready:    n.ready,
		Open:     n.doors.opens,
		MayWrite: n.mayWrite,
		Limited:  n.limited.note,
	}
}

// mayWrite reports whether a client may write under kv/.
func (n *Node) mayWrite(p part.Caller) bool {
	return n.cfg.API.OpenWrites || p.Node != "" || slices.Contains(n.cfg.API.Writers, p.TLS) || slices.Contains(n.cfg.API.Clients, p.TLS)
}

// ready reports why this node can not serve now, as far as it knows without asking others.
func (n *Node) ready() error {
	if err := n.closed.err(); err != nil {
		return err
	}
	if !n.isUp() {
		return n.closed.starts()
	}
	if n.replica.Status().Leader == 0 {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonNoQuorum, Where: "node " + n.name, Want: "a leader", Got: "none"})
	}
	return n.fresh()
}

// bounds are those of the connections of a server.
type bounds struct {
	idle    time.Duration // without a request
	stuck   time.Duration // in which nothing of an answer is taken
	header  int           // bytes of a request's head
	streams int           // of a connection
	window  int           // bytes that are sent ahead, on a connection
}

// What connections take: a stranger's about 100 KiB at the worst, beside what the table of
// limits has for the requests on it.
var (
	strangersHTTP = bounds{time.Minute, 10 * time.Second, 16 << 10, 8, 128 << 10}
	othersHTTP    = bounds{client.NodeIdle, 30 * time.Second, 32 << 10, 1024, 4<<20 - 1}
)

func (n *Node) server(api http.Handler, b bounds) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(n.cfg.API.Plain || n.gate != nil)
	return &http.Server{
		Handler:           api,
		Protocols:         protocols,
		ErrorLog:          slog.NewLogLogger(n.log.Handler(), slog.LevelDebug), // what strangers do wrong, mostly
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       b.idle,
		MaxHeaderBytes:    b.header,
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: b.streams, MaxReceiveBufferPerConnection: b.window, MaxReceiveBufferPerStream: b.window,
			MaxReadFrameSize: 16 << 10, MaxDecoderHeaderTableSize: 4 << 10, SendPingTimeout: client.HostSilence, PingTimeout: 10 * time.Second, WriteByteTimeout: b.stuck},
		BaseContext: func(net.Listener) context.Context { return n.running },
		ConnContext: serve.ConnContext(n.peerAt),
	}
}

func (n *Node) start(f *front, s *http.Server) {
	f.server = s
	n.tasks.Add(1)
	go func() {
		defer n.tasks.Done()
		err := s.Serve(f.listener)
		if !errors.Is(err, http.ErrServerClosed) && n.running.Err() == nil {
			n.log.Error("no longer served", "address", f.listener.Addr(), "because", err)
		}
	}()
}

// apiTLS shows the node's pinned key, and asks clients for theirs if the
// configuration lists some. Nodes of the domain are always clients of each other.
func (n *Node) apiTLS() *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{n.self.TLS}, SessionTicketsDisabled: true}
	if len(n.cfg.API.Clients) == 0 {
		c.ClientAuth = tls.RequestClientCert // nodes show theirs
		return c
	}
	c.ClientAuth = tls.RequireAnyClientCert
	c.VerifyConnection = func(s tls.ConnectionState) error {
		pin := keystead.Sum(s.PeerCertificates[0].RawSubjectPublicKeyInfo)
		if n.listed(pin) || n.nameOf(pin) != "" {
			return nil
		}
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonKeyForeign, Where: "client", Want: "one of api.clients", Got: pin.String()})
	}
	return c
}

// listed reports whether a key is one of the configured clients'.
func (n *Node) listed(pin keystead.Digest) bool { return slices.Contains(n.cfg.API.Clients, pin) }

// ops answers operators: /healthz is 200 while the node runs, /readyz while it
// would answer a linearizable read and its clock is fresh; else it says why not, and what to do.
func (n *Node) ops() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if !n.isUp() {
			fmt.Fprintln(w, "ok")
			return
		}
		select {
		case <-n.replica.Done():
			http.Error(w, fmt.Sprintf("stopped: %v", n.replica.Err()), http.StatusServiceUnavailable)
		default:
			fmt.Fprintln(w, "ok")
		}
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
		defer cancel()
		err := n.ready()
		if err == nil {
			err = errors.Join(n.replica.Read(ctx), n.fresh())
		}
		if err != nil {
			http.Error(w, strings.ReplaceAll(err.Error(), "\n", "; "), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(n.metrics.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	return mux
}

// Addresses returns where the node listens for clients and for operators.
func (n *Node) Addresses() (api, ops net.Addr) {
	return n.fronts[1].listener.Addr(), n.fronts[2].listener.Addr()
}

// closeFronts lets requests under way end, for a while, and closes the listeners.
func (n *Node) closeFronts() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var errs []error
	for _, f := range n.fronts {
		switch {
		case f.server != nil:
			if err := f.server.Shutdown(ctx); err != nil {
				errs = append(errs, f.server.Close())
			}
		case f.listener != nil:
			errs = append(errs, f.listener.Close())
		}
	}
	return errors.Join(errs...)
}
