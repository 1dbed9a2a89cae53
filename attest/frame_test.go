package attest

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/cursor"
)

// raw is a frame of any version, kind and stated length.
func raw(version, k byte, length int, payload string) []byte {
	return append([]byte{version, k, byte(length >> 24), byte(length >> 16), byte(length >> 8), byte(length)}, payload...)
}

// TestBadFrames: a stranger who has TLS sends what is no frame of its place. The
// refusal names the field, and the stranger is told.
func TestBadFrames(t *testing.T) {
	s := onStage(t)
	hello := hello{keys: s.alice.keys}.frame()
	manyCerts := newFrame(kindHello, func(b []byte) []byte {
		return append(cursor.AppendSized16(cursor.AppendSized16(append(b, make([]byte, nonceSize)...), ""), ""), maxCerts+1)
	})
	ask := challengeFrame(evidence.Credential{Blob: []byte{1}, Secret: []byte{2}})
	for what, tc := range map[string]struct {
		says []byte
		ends bool // the stranger says no more
		want string
	}{
		"application data: HTTP/2":       {says: []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), want: "version"},
		"application data: a binary one": {says: []byte{0, 0, 0, 4, 1, 0, 0, 0, 0}, want: "version"},
		"a frame of the next version":    {says: raw(version+1, byte(kindHello), 0, ""), want: "version"},
		"a frame of no kind":             {says: raw(version, 9, 0, ""), want: "kind"},
		"evidence first":                 {says: raw(version, byte(kindEvidence), 0, ""), want: "kind"},
		"a verdict that says yes first":  {says: acceptance(), want: "kind"},
		"a large hello":                  {says: raw(version, byte(kindHello), maxHello+1, ""), want: "length"},
		"the largest length":             {says: raw(version, byte(kindHello), 1<<32-1, ""), want: "length"},
		"a large verdict":                {says: raw(version, byte(kindVerdict), maxVerdict+1, ""), want: "length"},
		"half a header":                  {says: hello[:3], ends: true, want: "ends after 3 of 6"},
		"half a hello":                   {says: hello[:50], ends: true, want: "ends after 44 of"},
		"an empty hello":                 {says: raw(version, byte(kindHello), 0, ""), want: "nonce"},
		"a hello with more after":        {says: raw(version, byte(kindHello), 38, strings.Repeat("\x00", 38)), want: "end"},
		"many certificates":              {says: manyCerts, want: "certificates"},
		"an empty verdict":               {says: raw(version, byte(kindVerdict), 0, ""), want: "verdict"},
		"a refusal without findings":     {says: raw(version, byte(kindVerdict), 2, "\x00\x00"), want: "findings"},
		"a verdict that is neither":      {says: raw(version, byte(kindVerdict), 2, "\x02\x01"), want: "findings"},
		"hello twice":                    {says: bytes.Repeat(hello, 2), want: "kind"},
		"half a challenge":               {says: append(bytes.Clone(hello), raw(version, byte(kindChallenge), 3, "\x00\x05a")...), want: "credential"},
		"a large challenge":              {says: append(bytes.Clone(hello), raw(version, byte(kindChallenge), maxChallenge+1, "")...), want: "length"},
		"no bundle":                      {says: join(hello, challengeFrame(evidence.Credential{}), raw(version, byte(kindEvidence), 2, "\x00\x00")), want: "magic"},
		"a long answer":                  {says: join(hello, challengeFrame(evidence.Credential{}), raw(version, byte(kindEvidence), 67, "\x00\x41"+strings.Repeat("a", 65))), want: "answer"},
		"a large bundle":                 {says: join(hello, challengeFrame(evidence.Credential{}), raw(version, byte(kindEvidence), defaultMaxBundle+100, "")), want: "length"},
		"a challenge of no credential":   {says: join(hello, ask), want: "credential"},
	} {
		a, b := net.Pipe()
		victim := begin(t, roleServer, a, s.config(s.bob, s.alice))
		m := newMallory(t, b, roleClient)
		if err := m.Handshake(); err != nil {
			t.Fatal(err)
		}
		heard := make(chan []byte, 1)
		go func() {
			var payload []byte
			for k := kindHello; ; {
				got, p, err := readFrame(m, k, defaultMaxBundle, anyRoom)
				if err != nil {
					break
				}
				if got == kindVerdict {
					payload = p
					break
				}
				k = got + 1
			}
			m.NetConn().Close()
			heard <- payload
		}()
		m.Write(tc.says)
		if tc.ends {
			m.CloseWrite()
		}
		e := <-victim
		want := keystead.ReasonMalformed
		if what == "a challenge of no credential" {
			if e.err == nil || isTold(e.err) {
				t.Errorf("%s: want the TPM's error, got %v", what, e.err)
			}
			want = keystead.ReasonAttestationFailed
		} else {
			demand(t, what, e.err, want)
			if !strings.Contains(e.err.Error(), tc.want) {
				t.Errorf("%s: the refusal does not name %q: %v", what, tc.want, e.err)
			}
		}
		no, err := parseVerdict(<-heard)
		if err != nil || no == nil || no.Findings[0].Reason != want {
			t.Errorf("%s: the stranger hears %v, %v", what, no, err)
		}
	}
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// TestUnsuitableTLS: other versions, protocols and callers, from either side.
func TestUnsuitableTLS(t *testing.T) {
	s := onStage(t)
	for what, edit := range map[string]func(*tls.Config){
		"TLS 1.2":           func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 },
		"another protocol":  func(c *tls.Config) { c.NextProtos = []string{"h2"} },
		"no protocol":       func(c *tls.Config) { c.NextProtos = nil },
		"a coming protocol": func(c *tls.Config) { c.NextProtos = []string{"keystead-attest/2"} },
		"no certificate": func(c *tls.Config) {
			c.GetClientCertificate, c.Certificates, c.ClientAuth = nil, nil, tls.NoClientCert
		},
	} {
		for _, r := range []role{roleClient, roleServer} { // of the stranger
			if what == "no certificate" && r == roleServer {
				continue // TLS has no such server
			}
			a, b := loopback(t)
			victim := begin(t, r.peer(), a, s.config(s.bob, s.alice))
			m := newMallory(t, b, r)
			cfg := (&Config{Certificate: m.cert}).tls()
			edit(cfg)
			m.Conn = tls.Client(b, cfg)
			if r == roleServer {
				m.Conn = tls.Server(b, cfg)
			}
			go func() {
				m.Handshake()
				io.Copy(io.Discard, m)
			}()
			demand(t, what+", stranger as "+string(r), (<-victim).err, keystead.ReasonChannelUnsuitable)
		}
	}
	a, b := loopback(t)
	victim := begin(t, roleServer, a, s.config(s.bob, s.alice))
	b.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
	demand(t, "no TLS", (<-victim).err, keystead.ReasonChannelUnsuitable)
	b.Close()
}

// finish runs the two sides of a bare TLS connection.
func finish(t *testing.T, client, server *tls.Config) (c, s *tls.Conn) {
	t.Helper()
	a, b := loopback(t)
	t.Cleanup(func() { a.Close(); b.Close() })
	c, s = tls.Client(a, client), tls.Server(b, server)
	done := make(chan error, 1)
	go func() { done <- s.Handshake() }()
	if err := errors.Join(c.Handshake(), <-done); err != nil {
		t.Fatal(err)
	}
	return c, s
}

// TestResumed: no ticket is ever given, and a session that was resumed all the same,
// by configurations that this package does not use, is refused by either side.
func TestResumed(t *testing.T) {
	s := onStage(t)
	cfg, err := s.config(s.alice, s.bob).checked()
	if err != nil {
		t.Fatal(err)
	}
	client, server := cfg.tls(), cfg.tls()
	client.ServerName = "the cache's key"
	client.ClientSessionCache, client.SessionTicketsDisabled = tls.NewLRUClientSessionCache(8), false
	for range 2 {
		c, d := finish(t, client, server)
		go d.Write([]byte("x"))
		if _, err := c.Read(make([]byte, 1)); err != nil { // after a ticket, if there were one
			t.Fatal(err)
		}
		if c.ConnectionState().DidResume || d.ConnectionState().DidResume {
			t.Fatal("our server resumed a session")
		}
	}
	server.SessionTicketsDisabled = false
	var c, d *tls.Conn
	for range 2 {
		c, d = finish(t, client, server)
		go d.Write([]byte("x"))
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	if !c.ConnectionState().DidResume || !d.ConnectionState().DidResume {
		t.Fatal("the session was not resumed")
	}
	errs := make(chan error, 2)
	for r, tc := range map[role]*tls.Conn{roleClient: c, roleServer: d} {
		go func() {
			conn, err := cfg.attest(ctx, tc, r)
			if conn != nil {
				t.Error("there is a connection")
			}
			errs <- err
			tc.NetConn().Close()
		}()
	}
	demand(t, "one side", <-errs, keystead.ReasonChannelResumed)
	demand(t, "other side", <-errs, keystead.ReasonChannelResumed)
}

// TestMissingExporter: a TLS state that exports nothing, by crypto/tls's own rule or
// because the handshake is under way, where asking makes it panic.
func TestMissingExporter(t *testing.T) {
	s := onStage(t)
	cfg, err := s.config(s.alice, s.bob).checked()
	if err != nil {
		t.Fatal(err)
	}
	var early tls.ConnectionState
	client := cfg.tls()
	client.Renegotiation = tls.RenegotiateOnceAsClient // crypto/tls then exports nothing
	client.VerifyConnection = func(cs tls.ConnectionState) error { early = cs; return nil }
	c, d := finish(t, client, cfg.tls())
	_, err = newChannel(early, &cfg.Certificate, roleClient)
	demand(t, "inside the handshake", err, keystead.ReasonChannelUnsuitable)
	early.HandshakeComplete = true
	_, err = newChannel(early, &cfg.Certificate, roleClient)
	demand(t, "inside the handshake, said to be complete", err, keystead.ReasonExporterMissing)
	go func() {
		readFrame(d, kindVerdict, 0, anyRoom)
		d.NetConn().Close()
	}()
	conn, err := cfg.attest(ctx, c, roleClient)
	demand(t, "no exporter", err, keystead.ReasonExporterMissing)
	if conn != nil {
		t.Error("there is a connection")
	}
}

// TestTLS12State: even a finished TLS 1.2 connection is none to attest on.
func TestTLS12State(t *testing.T) {
	s := onStage(t)
	cfg, err := s.config(s.alice, s.bob).checked()
	if err != nil {
		t.Fatal(err)
	}
	old := cfg.tls()
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	c, d := finish(t, old, old)
	for r, state := range map[role]tls.ConnectionState{roleClient: c.ConnectionState(), roleServer: d.ConnectionState(), "none": {}} {
		_, err := newChannel(state, &cfg.Certificate, r)
		demand(t, string(r), err, keystead.ReasonChannelUnsuitable)
	}
}

// TestStall: a peer that says nothing, before TLS or after it, holds a side up for its
// timeout and no longer; and a caller that gives up is obeyed.
func TestStall(t *testing.T) {
	s := onStage(t)
	short := s.config(s.bob, s.alice)
	short.Timeout = 300 * time.Millisecond
	for _, r := range []role{roleClient, roleServer} {
		a, b := loopback(t)
		demand(t, "no TLS from "+string(r.peer()), (<-begin(t, r, a, short)).err, keystead.ReasonTimeout)
		b.Close()
	}
	long := s.config(s.bob, s.alice)
	for what, say := range map[string][]byte{"nothing": nil, "a hello": hello{keys: s.alice.keys}.frame(), "half a frame": {version, byte(kindHello), 0}} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			cfg := long
			cfg.Timeout = 2 * time.Second // TLS is done by then, if the machine is not very busy
			a, b := net.Pipe()
			victim := begin(t, roleServer, a, cfg)
			m := newMallory(t, b, roleClient)
			if m.Handshake() == nil {
				m.Write(say)
			}
			demand(t, what, (<-victim).err, keystead.ReasonTimeout)
		})
	}
	given, cancel := context.WithCancel(ctx)
	a, b := net.Pipe()
	out := make(chan error, 1)
	go func() {
		_, err := Server(given, a, long)
		out <- err
	}()
	m := newMallory(t, b, roleClient)
	if err := m.Handshake(); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-out; !errors.Is(err, context.Canceled) {
		t.Errorf("given up: want context.Canceled, got %v", err)
	}
}

// TestPeersWords: a refusal's words are the peer's, so they are bounded and safe to
// print.
func TestPeersWords(t *testing.T) {
	long := strings.Repeat("ä", maxStatement)
	f := keystead.Finding{Reason: keystead.ReasonRuleFailed, Want: "a\x1b[2Jb\nc", Got: long, Where: "\xff"}
	var many []keystead.Finding
	for range 2 * maxFindings {
		many = append(many, f)
	}
	frame := refusal(many)
	if len(frame)-headerSize > maxVerdict {
		t.Fatalf("a refusal takes %d bytes", len(frame))
	}
	no, err := parseVerdict(frame[headerSize:])
	if err != nil || len(no.Findings) != maxFindings {
		t.Fatalf("%v, %v", no, err)
	}
	got := no.Findings[0]
	if got.Want != "a\ufffd[2Jb\ufffdc" || got.Got != long[:maxStatement] || got.Where != "\ufffd" || got.Reason != f.Reason {
		t.Errorf("got %+q", got)
	}
	if !errors.Is(no, keystead.ReasonRuleFailed) || !strings.HasPrefix(no.Error(), "attest: the peer says: denied: rule-failed") {
		t.Errorf("as an error: %v", no)
	}
	for _, reason := range []string{"", "A", "a b", "a\n"} {
		if _, err := parseVerdict(refusal([]keystead.Finding{{Reason: keystead.Reason(reason)}})[headerSize:]); err == nil {
			t.Errorf("reason %q is taken", reason)
		}
	}
}

// FuzzFrames reads whatever comes: no frame makes a reader fail otherwise than by a
// FormatError or the stream's end, and what parses is what its encoding says.
func FuzzFrames(f *testing.F) {
	f.Add([]byte("PRI * HTTP/2.0\r\n\r\n"))
	f.Add(hello{keys: evidence.TPMKeys{AKPublic: []byte("ak"), EKPublic: []byte("ek"), EKCertificate: [][]byte{{1}, {2, 3}}}}.frame())
	f.Add(hello{keys: evidence.TPMKeys{TEE: evidence.TEEHost{Kind: evidence.KindSNP, Machine: "ab"}}}.frame())
	f.Add(challengeFrame(evidence.Credential{}))
	f.Add(challengeFrame(evidence.Credential{Blob: []byte("blob"), Secret: []byte("secret")}))
	bundle, err := evidence.New(evidence.Parts{Binding: evidence.Binding{Purpose: evidence.PurposeConnection, Nonce: []byte("n")}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(evidenceFrame([]byte("answer"), bundle))
	f.Add(acceptance())
	f.Add(refusal([]keystead.Finding{{Reason: keystead.ReasonRuleFailed, Want: "w", Got: "g", Where: "h"}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, want := range []kind{kindHello, kindChallenge, kindEvidence, kindVerdict} {
			k, payload, err := readFrame(bytes.NewReader(b), want, 1<<20, anyRoom)
			var bad *keystead.FormatError
			if err != nil {
				if !errors.As(err, &bad) && !errors.Is(err, io.EOF) {
					t.Fatalf("%T: %v", err, err)
				}
				continue
			}
			again, err := reencode(k, payload)
			if err != nil && !errors.As(err, &bad) {
				t.Fatalf("%v: %T: %v", k, err, err)
			}
			if err == nil && k != kindVerdict && !bytes.Equal(again, b[:headerSize+len(payload)]) {
				t.Fatalf("%v: %x parses, and is written %x", k, b, again)
			}
		}
	})
}

func reencode(k kind, payload []byte) ([]byte, error) {
	switch k {
	case kindHello:
		h, err := parseHello(payload)
		return h.frame(), err
	case kindChallenge:
		c, err := parseChallenge(payload)
		if c == nil {
			c = &evidence.Credential{}
		}
		return challengeFrame(*c), err
	case kindEvidence:
		answer, bundle, err := parseEvidence(payload)
		return evidenceFrame(answer, bundle), err
	}
	_, err := parseVerdict(payload)
	return nil, err
}

func anyRoom(kind, int) error { return nil }
