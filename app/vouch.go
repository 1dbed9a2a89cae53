package app

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence/process"
	"github.com/keystead/keystead/internal/cursor"
)

// Lifetime is how long a node's challenge may be answered.
const Lifetime = 30 * time.Second

// Sign returns the statement, signed by the subject key of the host's lease: ECDSA or
// Ed25519. Who signs composed the statement itself.
func (s *Statement) Sign(random io.Reader, subject crypto.Signer) ([]byte, error) {
	body, err := s.body()
	if err != nil {
		return nil, err
	}
	message, opts := append([]byte(statementContext), body...), crypto.SignerOpts(crypto.Hash(0))
	if _, ok := subject.Public().(*ecdsa.PublicKey); ok {
		d := sha256.Sum256(message)
		message, opts = d[:], crypto.SHA256
	}
	signature, err := subject.Sign(random, message, opts)
	if err != nil {
		return nil, fmt.Errorf("sign the statement: %w", err)
	}
	raw := cursor.AppendSized16(body, signature)
	_, _, _, err = parseStatement(raw)
	return raw, err
}

// Expected is what a node knows by itself when a statement comes.
type Expected struct {
	Domain    keystead.Digest
	Host      string // of the connection's lease, and so are its version and the subject key
	Lease     uint64
	Boot      process.BootID // zero: nothing is known of it
	Subject   crypto.PublicKey
	Challenge [ChallengeSize]byte
	Asked     time.Time // when the node gave the challenge
	Now       time.Time // on the same clock as Asked
	Use       Use
	Least     process.Level

	Roots  *Roots
	At     time.Time                  // the domain's clock
	Denied func(keystead.Digest) bool // members denied app/DIGEST
	Known  func(keystead.Digest) bool // a reference or code set in force has the file
}

// An Application is a process that a host vouches for, and whose program a root of the
// domain vouches for. Only [Open] makes one; the zero value is nobody.
type Application struct {
	statement *Statement
	identity  Identity
}

// Statement returns what the host said, all of it checked.
func (a Application) Statement() Statement {
	if a.statement == nil {
		return Statement{}
	}
	return *a.statement
}

// Identity returns who the program is: the zero value for one at level peer that is not signed.
func (a Application) Identity() Identity { return a.identity }

// Level returns how well the application is known; 0 for the zero value.
func (a Application) Level() process.Level {
	if a.statement == nil {
		return 0
	}
	return a.statement.Level
}

// Open reads a statement and holds all of it to what a node expects. It refuses a
// statement of another domain, host, lease or boot, or that the lease's key did not sign
// (report-foreign); one to another challenge, or too late (report-replayed); one for
// another use (application-mismatch); a level too low (level-low); a library that the
// program does not name, or that no set has (mapping-foreign); what [Note.Verify] and
// [Identity.Admits] refuse; and keys that are not shown to be the application's.
func Open(raw []byte, e Expected) (Application, error) {
	s, body, signature, err := parseStatement(raw)
	if err != nil {
		return Application{}, err
	}
	if err := s.ours(body, signature, e); err != nil {
		return Application{}, err
	}
	a := Application{statement: s}
	switch {
	case s.Use != e.Use:
		return Application{}, appMismatch("a statement for "+string(e.Use), string(s.Use))
	case s.Level < e.Least:
		return Application{}, refuse(keystead.ReasonLevelLow, e.Least.String(), s.Level.String())
	}
	if s.Note != nil {
		if a.identity, err = s.identify(e); err != nil {
			return Application{}, err
		}
	}
	for _, k := range s.Keys {
		if err := s.checkKey(k); err != nil {
			return Application{}, err
		}
	}
	return a, nil
}

// PeekChallenge returns the challenge that a statement says it answers, for a node to look it
// up. Nothing of the statement is checked beyond its form.
func PeekChallenge(raw []byte) (challenge [ChallengeSize]byte, err error) {
	s, _, _, err := parseStatement(raw)
	if err != nil {
		return challenge, err
	}
	return s.Challenge, nil
}

// ours checks who says it, of where, and to whom.
func (s *Statement) ours(body, signature []byte, e Expected) error {
	foreign := func(want, got string) error {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonReportForeign, Where: "application statement", Want: want, Got: got})
	}
	replayed := func(want, got string) error {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonReportReplayed, Where: "application statement", Want: want, Got: got})
	}
	age := e.Now.Sub(e.Asked)
	switch {
	case !verifySubject(e.Subject, append([]byte(statementContext), body...), signature):
		return foreign("a signature by the subject key of the lease", "another")
	case s.Domain != e.Domain:
		return foreign("domain "+e.Domain.String(), s.Domain.String())
	case s.Host != e.Host:
		return foreign("host "+e.Host, s.Host)
	case s.Lease != e.Lease:
		return foreign(fmt.Sprintf("lease %d", e.Lease), fmt.Sprint(s.Lease))
	case s.Boot != e.Boot && e.Boot != process.BootID{}:
		return foreign("boot "+e.Boot.String(), s.Boot.String())
	case s.Challenge != e.Challenge:
		return replayed("an answer to the challenge", "one to another")
	case age < 0 || age > Lifetime:
		return replayed(fmt.Sprintf("an answer within %v", Lifetime), age.String())
	}
	return nil
}

func verifySubject(subject crypto.PublicKey, message, signature []byte) bool {
	switch key := subject.(type) {
	case *ecdsa.PublicKey:
		d := sha256.Sum256(message)
		return ecdsa.VerifyASN1(key, d[:], signature)
	case ed25519.PublicKey:
		return len(key) == ed25519.PublicKeySize && ed25519.Verify(key, message, signature)
	}
	return false
}

// identify holds the program to its roots, and its libraries to what it names.
func (s *Statement) identify(e Expected) (Identity, error) {
	if e.Roots == nil || e.Denied == nil || e.Known == nil {
		return Identity{}, errors.New("a statement is judged by roots, denials and sets")
	}
	m := s.Program
	if s.Level == process.Peer {
		m.Text = s.Note.Text // nothing is said of memory at this level
	}
	id, err := s.Note.Verify(m, e.Roots, e.Denied, e.At)
	if err != nil {
		return Identity{}, err
	}
	if err := id.Admits(s.Level, s.Host, s.UID); err != nil {
		return Identity{}, err
	}
	for _, m := range s.Mappings {
		if err := s.Note.Maps(m.Name); err != nil {
			return Identity{}, err
		}
		if !e.Known(m.File) {
			return Identity{}, refuse(keystead.ReasonMappingForeign, "a library that a reference or code set has", m.Name+" "+m.File.String())
		}
	}
	return id, nil
}

// Maps refuses a library that the program does not name (mapping-foreign).
func (n *Note) Maps(name string) error {
	if _, ok := slices.BinarySearch(n.Libraries, name); !ok {
		return refuse(keystead.ReasonMappingForeign, "a library that the program names", name)
	}
	return nil
}
