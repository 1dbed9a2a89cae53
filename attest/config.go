package attest

import (
	"context"
	"crypto/tls"
	"errors"
	"time"

	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/evidence"
)

// A Prover makes this side's evidence. It may be used by many connections at once.
type Prover interface {
	// Introduce returns the keys of this side's TPM, for the peer to challenge.
	Introduce(ctx context.Context) (evidence.TPMKeys, error)
	// Prove makes evidence with that binding. If challenge is not nil the TPM opens it
	// as well, and answer is the secret.
	Prove(ctx context.Context, binding evidence.Binding, challenge *evidence.Credential) (bundle evidence.Bundle, answer []byte, err error)
}

// A Verifier judges the peer. It may be used by many connections at once. A
// *keystead.DenyError of either method is told to the peer; of another error the peer
// learns only that there was one.
type Verifier interface {
	// Challenge returns what the peer's TPM is to open, or nil if the verifier accepts
	// these keys already.
	Challenge(ctx context.Context, keys evidence.TPMKeys) (*appraise.Activation, error)
	// Verify appraises the claim, and returns the verdict and a name for the peer.
	Verify(ctx context.Context, c Claim) (name string, v appraise.Verdict, err error)
}

// A Claim is what the peer showed, and what was asked of it.
type Claim struct {
	Keys       evidence.TPMKeys     // as the peer introduced itself
	Activation *appraise.Activation // what Challenge returned
	Answer     []byte               // to the activation
	Bundle     evidence.Bundle      // stated to be of this connection; only its quote proves that
	Expect     evidence.Binding     // of this connection: what the verdict must be over
}

// Config is what a side brings to its connections. It may be used by many at once,
// and is not changed meanwhile. Prover, Verifier and Certificate are required.
type Config struct {
	// Certificate is shown in TLS; its key becomes the evidence's subject key. Nobody
	// trusts it for itself.
	Certificate tls.Certificate
	// Prover is believed by nobody: its evidence is what counts.
	Prover Prover
	// Verifier is believed by this side: it decides who gets in.
	Verifier Verifier
	// Plain, of a server, takes the clients that do not offer [Protocol]: people's, and
	// others' without evidence. Their Conn has no peer, so whoever serves it must ask.
	// Nil refuses them.
	Plain *tls.Config
	// Timeout bounds TLS and attestation together; 30 s if 0.
	Timeout time.Duration
	// MaxAge is how long a connection stands after this side asked for the evidence;
	// then it closes itself, and fails with [keystead.ReasonConnectionExpired]. 0 is
	// without end.
	MaxAge time.Duration
	// Renewed, if there is one, is asked when a connection reaches MaxAge, and believed:
	// it returns when newer evidence of the same peer was asked for that passed elsewhere.
	// From then on the connection's age is counted. The zero time says that there is none.
	Renewed func(*Conn) time.Time
	// MaxBundle bounds the peer's bundle, in bytes; 8 MiB if 0.
	MaxBundle int
	// Room, if not nil, is asked for memory for the peer's evidence as its size is
	// announced, before it is read; leave gives it back when the connection is made, or is
	// not. Of the peer no more is known than its TLS key, PKIX DER. A refusal is told to it.
	Room func(key []byte, bytes int) (leave func(), err error)
}

// Defaults of a Config.
const (
	defaultTimeout   = 30 * time.Second
	defaultMaxBundle = 8 << 20
)

// checked returns the configuration with its defaults, or what it lacks.
func (c Config) checked() (*Config, error) {
	if c.Prover == nil || c.Verifier == nil {
		return nil, errors.New("attest: the configuration has no prover or no verifier")
	}
	if _, err := ownLeaf(&c.Certificate); err != nil {
		return nil, err
	}
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	if c.MaxBundle == 0 {
		c.MaxBundle = defaultMaxBundle
	}
	if c.MaxBundle < 0 || c.MaxBundle > evidence.MaxBundle {
		return nil, errors.New("attest: the bound of bundles is negative, or above that of the format")
	}
	return &c, nil
}

// tls returns TLS 1.3 without tickets or resumption, with this protocol alone. Both
// sides show a certificate, which is not judged here.
func (c *Config) tls() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{c.Certificate},
		GetClientCertificate:   func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c.Certificate, nil },
		ClientAuth:             tls.RequireAnyClientCert,
		InsecureSkipVerify:     true, // the evidence binds the leaf; no chain or name is asked for
		SessionTicketsDisabled: true,
		NextProtos:             []string{Protocol},
	}
}

// serverTLS is tls for a server, which may take others too.
func (c *Config) serverTLS() *tls.Config {
	out := c.tls()
	if c.Plain == nil {
		return out
	}
	out.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		for _, p := range h.SupportedProtos {
			if p == Protocol {
				return nil, nil // this very configuration
			}
		}
		return c.Plain, nil
	}
	return out
}
