package keyring

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/policy"
)

// Claims are what a release policy may speak of: those of the verdict on the host, and
// release.*, which are about the request.
type Claims struct {
	Assurance string                  `cel:"assurance"`
	Key       evidence.KeyClaims      `cel:"key"`
	Quote     evidence.QuoteClaims    `cel:"quote"`
	Boot      evidence.BootClaims     `cel:"boot"`
	Kernel    evidence.KernelClaims   `cel:"kernel"`
	Software  evidence.SoftwareClaims `cel:"software"`
	Packages  evidence.PackageClaims  `cel:"packages"`
	TEE       evidence.TEEClaims      `cel:"tee"`
	Release   ReleaseClaims           `cel:"release"`
}

// ReleaseClaims are about who asks, and how old the evidence is.
type ReleaseClaims struct {
	Host        string      `cel:"host"`
	Role        string      `cel:"role"`
	AgeSeconds  int64       `cel:"age_seconds"` // of the newest evidence that was judged, rounded up
	Application Application `cel:"application"`
}

// Application is what the host's agent found out about a process that asks. The zero
// value is the host itself.
type Application struct {
	Level  string `cel:"level"`  // none, peer, measured, launched
	Path   string `cel:"path"`   // empty from measured on: the digest says which program it is
	Digest string `cel:"digest"` // sha256:HEX of the executable's content, before it was signed
	Name   string `cel:"name"`   // in its certificate; empty of a program that is not signed
	UID    int64  `cel:"uid"`
}

// Vocabulary is what release policies may speak of.
func Vocabulary() policy.Vocabulary {
	return policy.Vocabulary{Claims: Claims{}, Levels: appraise.Vocabulary().Levels}
}

// Lease is what a release asks of a host's lease, as admit.Lease answers it.
type Lease interface {
	// Host and Role are the names in its enrolment.
	Host() string
	Role() string
	// At returns why the lease does not hold at a time of the domain clock, in Unix
	// milliseconds; nil if it does.
	At(clock uint64) error
	// Evidence returns the time of the newest evidence that was judged for it, on the
	// domain clock in Unix milliseconds.
	Evidence() uint64
}

var _ Lease = admit.Lease{}

// Ask is a request for a key.
type Ask struct {
	Lease       Lease
	Claims      evidence.Claims // of the verdict on the host
	Key         string
	Version     uint64 // 0 for the newest
	Application Application
}

// Grant is a released key. It is minted by [Ring.Release] alone; the zero value
// holds none.
type Grant struct {
	_       [0]func()
	secret  Secret
	version uint64
	hold    time.Duration
}

// Secret returns the key; zero if none was granted.
func (g Grant) Secret() Secret { return g.secret }

// Version returns the version of the key.
func (g Grant) Version() uint64 { return g.version }

// Hold returns how long the holder may go on when the domain can not be reached; 0: not
// beyond its lease.
func (g Grant) Hold() time.Duration { return g.hold }

// Format prints no secret, whatever the verb.
func (g Grant) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// LogValue: see Format.
func (g Grant) LogValue() slog.Value { return slog.StringValue(redacted) }

// Release decides whether who asks gets the key, at a time of the domain clock in Unix
// milliseconds. The state is the one of now, and the lease is of that state. A refusal
// holds all findings: the lease's, evidence-old, level-low, assurance-low, and the
// rules of the policy that are not met.
func (g *Ring) Release(st State, ask *Ask, now uint64) (Grant, error) {
	if ask.Lease == nil {
		return Grant{}, deny(keystead.ReasonEvidenceMissing, "release", "a lease", "none")
	}
	spec, err := g.policies.spec(st, ask.Key)
	if err != nil {
		return Grant{}, err
	}
	if err := spec.check(ask, now); err != nil {
		return Grant{}, err
	}
	v, err := wantedVersion(st, ask)
	if err != nil {
		return Grant{}, err
	}
	s, err := g.open(st, &v)
	if err != nil {
		return Grant{}, err
	}
	if s, _, err = s.halves(g.domain, KeyPurpose(v.Name, v.Number), spec.Algorithm()); err != nil {
		return Grant{}, err
	}
	return Grant{secret: s, version: v.Number, hold: time.Duration(spec.Hold) * time.Second}, nil
}

func wantedVersion(st State, ask *Ask) (v Version, err error) {
	if ask.Version == 0 {
		v, err = Newest(st, ask.Key)
	} else {
		v, _, err = At(st, ask.Key, ask.Version)
	}
	if err == nil && v.Number == 0 {
		err = deny(keystead.ReasonKeyUnknown, "key "+ask.Key, "a version that was agreed", "version "+strconv.FormatUint(ask.Version, 10))
	}
	return v, err
}

// compiled is a specification with its policy.
type compiled struct {
	Spec
	version uint64 // of its record
	policy  *policy.Policy
}

// check gathers what speaks against a release.
func (c *compiled) check(ask *Ask, now uint64) error {
	var found []keystead.Finding
	if err := ask.Lease.At(now); err != nil {
		found = append(found, findings("lease", err)...)
	}
	claims := claimsOf(ask, now)
	if c.Evidence > 0 && claims.Release.AgeSeconds > int64(c.Evidence) {
		found = append(found, keystead.Finding{Reason: keystead.ReasonEvidenceOld, Where: "key " + c.Name,
			Want: fmt.Sprintf("evidence of at most %d s ago", c.Evidence), Got: fmt.Sprintf("%d s", claims.Release.AgeSeconds)})
	}
	if got := claims.Release.Application; slices.Index(levels, got.Level) < slices.Index(levels, c.Level) || got.malformed() {
		found = append(found, keystead.Finding{Reason: keystead.ReasonLevelLow, Where: "key " + c.Name, Want: "an application of level " + c.Level, Got: fmt.Sprintf("%.40q", got.Level)})
	}
	if v := c.Service; v != nil {
		switch name := claims.Release.Application.Name; {
		case v.Use != UseRelease:
			found = append(found, keystead.Finding{Reason: keystead.ReasonRuleFailed, Where: "key " + c.Name, Want: "a key for use " + string(UseRelease), Got: "one for use " + string(v.Use) + ", which is released to nobody"})
		case !v.admits(name):
			found = append(found, keystead.Finding{Reason: keystead.ReasonApplicationMismatch, Where: "key " + c.Name, Want: "application " + v.Application, Got: fmt.Sprintf("%.140q", name)})
		}
	}
	least, _ := evidence.ParseAssurance(c.policy.MinimumAssurance()) // compiling has checked it
	if got, err := evidence.ParseAssurance(claims.Assurance); err != nil || got < least {
		found = append(found, keystead.Finding{Reason: keystead.ReasonAssuranceLow, Where: "key " + c.Name, Want: least.String(), Got: fmt.Sprintf("%.40q", claims.Assurance)})
	}
	for _, r := range c.policy.Eval(&claims) {
		if !r.OK {
			found = append(found, r.Finding())
		}
	}
	if found != nil {
		return keystead.Deny(found...)
	}
	return nil
}

// malformed reports an application that its own level contradicts.
func (a *Application) malformed() bool {
	none := a.Path == "" && a.Digest == "" && a.Name == "" && a.UID == 0
	switch a.Level {
	case LevelNone:
		return !none
	case LevelPeer:
		return a.Digest == "" || a.Path == "" && a.Name == ""
	case LevelMeasured, LevelLaunched:
		return a.Digest == "" || a.Name == ""
	}
	return true
}

func claimsOf(ask *Ask, now uint64) Claims {
	v := ask.Claims
	age := uint64(0)
	if judged := ask.Lease.Evidence(); judged < now {
		age = (now - judged + 999) / 1000
	}
	app := ask.Application
	if app.Level == "" {
		app.Level = LevelNone
	}
	return Claims{v.Assurance, v.Key, v.Quote, v.Boot, v.Kernel, v.Software, v.Packages, v.TEE,
		ReleaseClaims{ask.Lease.Host(), ask.Lease.Role(), int64(age), app}}
}

// findings returns what an error says, as findings.
func findings(where string, err error) []keystead.Finding {
	var d *keystead.DenyError
	if errors.As(err, &d) {
		return d.Findings
	}
	return []keystead.Finding{{Reason: keystead.ReasonMalformed, Where: where, Got: err.Error()}}
}

// policyCache keeps compiled specifications: compiling takes a thousand times as long
// as evaluating.
type policyCache struct {
	mu sync.Mutex
	by map[string]*compiled
}

const maxCompiled = 1024

// spec returns the specification of a key on the ledger, compiled.
func (p *policyCache) spec(st State, name string) (*compiled, error) {
	v, err := st.Judged(KeyspecType + "/" + name)
	if err != nil {
		return nil, err
	}
	if v.Version == 0 {
		return nil, deny(keystead.ReasonKeyUnknown, fmt.Sprintf("key %.64s", name), "a key that members specified", "none of that name")
	}
	p.mu.Lock()
	c := p.by[name]
	p.mu.Unlock()
	if c != nil && c.version == v.Version {
		return c, nil
	}
	s, err := readSpec(v.Data)
	if err != nil {
		return nil, err
	}
	c = &compiled{Spec: s, version: v.Version}
	if c.policy, err = policy.Compile(s.Policy, Vocabulary()); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.by == nil || len(p.by) >= maxCompiled {
		p.by = map[string]*compiled{}
	}
	p.by[name] = c
	return c, nil
}
