package client

import (
	"context"
	"crypto/hpke"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/api/v1/apiv1connect"
	"github.com/keystead/keystead/evidence/process"
	"github.com/keystead/keystead/internal/refusal"
)

// A LocalAgent is the agent of this machine, as its applications ask it. Its zero value
// asks nobody. It is safe for concurrent use.
type LocalAgent struct {
	path string
	own  *inherited // of a launched program
}

// Local returns the agent that listens at the path of a Unix socket.
func Local(path string) LocalAgent { return LocalAgent{path: path} }

// LaunchedEnv is set in the environment of a launched program: to the number of the descriptor by
// which it asks the agent, 3.
const LaunchedEnv = "KEYSTEAD_AGENT_FD"

// Launched returns the agent, for a program that keystead run launched: over the connection that it
// was started with, descriptor 3, and once that is gone with the agent of then, over the socket that
// KEYSTEAD_AGENT in its environment names.
func Launched() LocalAgent { return LocalAgent{os.Getenv("KEYSTEAD_AGENT"), launchedBy()} }

// inherited is the one connection of a launched program.
type inherited struct {
	client http.Client
	asks   sync.Mutex // the connection has one challenge at a time
}

var launchedBy = sync.OnceValue(func() *inherited {
	var used atomic.Bool
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	t := &http.Transport{Protocols: protocols, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		if !used.Swap(true) {
			f := os.NewFile(3, "agent")
			defer f.Close()
			return net.FileConn(f)
		}
		return new(net.Dialer).DialContext(ctx, "unix", os.Getenv("KEYSTEAD_AGENT"))
	}}
	return &inherited{client: http.Client{Transport: t}}
})

// A ReleasedKey is an agreed key that was released to this process. Nothing prints the
// key; only Bytes gives it.
type ReleasedKey struct {
	_       [0]func() // not comparable
	name    string
	version uint64
	secret  []byte
	until   time.Time
}

// Name returns the key's name.
func (k *ReleasedKey) Name() string { return k.name }

// Version returns the key's version.
func (k *ReleasedKey) Version() uint64 { return k.version }

// Bytes returns the key itself.
func (k *ReleasedKey) Bytes() []byte { return k.secret }

// Until is how long it may be used, unless it is released again: as long as the host's
// lease, and longer where the key's specification allows it. It is counted by the
// monotonic clock, which stands still while the machine sleeps.
func (k *ReleasedKey) Until() time.Time { return k.until }

// Forget wipes the key.
func (k *ReleasedKey) Forget() { clear(k.secret) }

// String names the key without its content.
func (k *ReleasedKey) String() string { return fmt.Sprintf("[key %s version %d]", k.name, k.version) }

// GoString is String.
func (k *ReleasedKey) GoString() string { return k.String() }

// Status asks where the host stands.
func (l LocalAgent) Status(ctx context.Context) (*apiv1.AgentStatusResponse, error) {
	to, done := l.connect()
	defer done()
	r, err := to.AgentStatus(ctx, connect.NewRequest(&apiv1.AgentStatusRequest{}))
	if err != nil {
		return nil, l.explain(err)
	}
	return r.Msg, nil
}

// Release asks for an agreed key, of that version or, with 0, the newest. It goes over
// a connection of its own, by which the agent knows this process, and comes sealed to a
// wrapping key that only this call has (docs/spec/application.md).
func (l LocalAgent) Release(ctx context.Context, key string, version uint64) (*ReleasedKey, error) {
	if l.own != nil {
		l.own.asks.Lock()
		defer l.own.asks.Unlock()
	}
	to, done := l.connect()
	defer done()
	asked := time.Now()
	c, err := to.Challenge(ctx, connect.NewRequest(&apiv1.ChallengeRequest{}))
	if err != nil {
		return nil, l.explain(err)
	}
	wrapping, err := process.KEMs()[0].GenerateKey()
	if err != nil {
		return nil, err
	}
	report, err := answer(c.Msg, process.Report{Key: key, Version: version, Wrapping: wrapping.PublicKey()})
	if err != nil {
		return nil, err
	}
	r, err := to.ReleaseKey(ctx, connect.NewRequest(&apiv1.ReleaseKeyRequest{Report: report}))
	if err != nil {
		return nil, l.explain(err)
	}
	kdf, aead := process.Suite()
	secret, err := hpke.Open(wrapping, kdf, aead, process.Info(report), r.Msg.GetSealed())
	if err != nil {
		return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonSignatureInvalid, Where: "answer of the agent",
			Want: "a key sealed in answer to this report", Got: "one that does not open"})
	}
	return &ReleasedKey{name: key, version: r.Msg.GetVersion(), secret: secret, until: asked.Add(time.Duration(r.Msg.GetHoldsMs()) * time.Millisecond)}, nil
}

// answer completes a report to a challenge.
func answer(c *apiv1.ChallengeResponse, r process.Report) ([]byte, error) {
	if len(c.GetChallenge()) != len(r.Challenge) || len(c.GetBootId()) != len(r.Boot) {
		return nil, &keystead.FormatError{Format: "challenge", Field: "size", Problem: "is not 32 bytes with a boot id of 16"}
	}
	copy(r.Challenge[:], c.GetChallenge())
	copy(r.Boot[:], c.GetBootId())
	return r.Encode()
}

// Call asks a procedure that a part of the agent answers on the socket, by its name, and reads
// what comes into answer, which has to be of the procedure's type. One that none answers is
// malformed.
func (l LocalAgent) Call(ctx context.Context, procedure string, question, answer proto.Message) error {
	to, done := l.dial()
	defer done()
	err := callNamed(ctx, to, localBase, procedure, question, answer)
	if connect.CodeOf(err) == connect.CodeUnimplemented {
		return &keystead.FormatError{Format: "procedure", Field: procedure, Problem: "is none that this machine's agent answers"}
	}
	return l.explain(err)
}

// connect returns a client on one new connection, which done closes.
func (l LocalAgent) connect() (to apiv1connect.AgentServiceClient, done func()) {
	h, done := l.dial()
	return apiv1connect.NewAgentServiceClient(h, localBase, connect.WithReadMaxBytes(maxHostAnswer)), done
}

// localBase is where the API is for a transport that knows the socket.
const localBase = "http://agent.invalid"

func (l LocalAgent) dial() (to *http.Client, done func()) {
	if l.own != nil {
		return &l.own.client, func() {}
	}
	t := &http.Transport{
		MaxConnsPerHost: 1,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", l.path)
		},
	}
	return &http.Client{Transport: t}, t.CloseIdleConnections
}

// explain turns an error into a refusal, and says why there is no agent to ask.
func (l LocalAgent) explain(err error) error {
	got := ""
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		got = "no agent listens there: keystead agent run"
	case errors.Is(err, fs.ErrPermission):
		got = "this user may not connect: socket.mode, socket.user and socket.group of the agent's configuration say who may"
	default:
		return refusal.Decode(err)
	}
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonShutdown, Where: "socket " + l.path, Want: "the agent of this machine", Got: got})
}

// Watch yields where the host stands, at once and whenever that changes, until ctx ends
// or yield returns false. When the agent can not be watched any more it fails: whoever
// watches takes that as the end of the lease.
func (l LocalAgent) Watch(ctx context.Context, yield func(*apiv1.WatchLeaseResponse) bool) error {
	to, done := l.connect()
	defer done()
	s, err := to.WatchLease(ctx, connect.NewRequest(&apiv1.WatchLeaseRequest{}))
	if err != nil {
		return l.explain(err)
	}
	defer s.Close()
	for s.Receive() {
		if !yield(s.Msg()) {
			return nil
		}
	}
	if err := s.Err(); err != nil {
		return l.explain(err)
	}
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonShutdown, Where: "socket " + l.path, Want: "an agent that goes on telling", Got: "the end"})
}
