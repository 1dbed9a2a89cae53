package node_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"os"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	appv1 "github.com/keystead/keystead/api/app/v1"
	"github.com/keystead/keystead/api/app/v1/appv1connect"
	"github.com/keystead/keystead/app"
	"github.com/keystead/keystead/client"
	local "github.com/keystead/keystead/evidence/process"
	"github.com/keystead/keystead/internal/specimen"
	"github.com/keystead/keystead/keyring"
	"github.com/keystead/keystead/policy"
)

// billing is a signed program that runs on a host, as the host's agent speaks of it.
type billing struct {
	*host
	on      *client.Host // the node that is asked
	subject crypto.Signer
	lease   uint64
	note    *app.Note
	program app.Measured
	wrap    hpke.PrivateKey
}

// newBilling signs a program for the host.
func newBilling(h *host, lease uint64, a *specimen.Authority, name string) *billing {
	t := h.f.t
	t.Helper()
	path := a.Sign(t, specimen.Build(t, specimen.MuslStatic), name)
	t.Cleanup(func() { _ = os.Remove(path) })
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	p, err := app.Parse(f, st.Size())
	if err != nil {
		t.Fatal(err)
	}
	b := &billing{host: h, on: h.at("n1", h.f.contacts()["n1"]), subject: h.cert.PrivateKey.(crypto.Signer), lease: lease, note: p.Note}
	if b.program, err = p.FileMeasured(); err != nil {
		t.Fatal(err)
	}
	if b.wrap, err = local.KEMs()[0].GenerateKey(); err != nil {
		t.Fatal(err)
	}
	return b
}

// asks is one question of an application: what its report and its host's statement say.
type asks struct {
	local.Report
	app.Statement
	raw    []byte // of the report; nil: Report's
	signed []byte // the statement; nil: signed by the host's subject key
	host   string
}

// ask has a node challenge the host, and returns a sound question about a key.
func (b *billing) ask(use app.Use, key string) *asks {
	b.f.t.Helper()
	var c appv1.ChallengeResponse
	if err := b.on.Call(b.f.ctx, appv1connect.ApplicationServiceChallengeProcedure, &appv1.ChallengeRequest{Host: b.name}, &c); err != nil {
		b.f.t.Fatal(err)
	}
	boot := local.BootID{7}
	q := &asks{host: b.name, Report: local.Report{Boot: boot, Key: key, Wrapping: b.wrap.PublicKey()},
		Statement: app.Statement{Domain: b.f.digest, Host: b.name, Lease: b.lease, Boot: boot, Use: use, Level: local.Measured, Coverage: app.CoveragePages, UID: 33, Inode: 4711, Program: b.program, Note: b.note}}
	copy(q.Statement.Challenge[:], c.GetChallenge())
	copy(q.Report.Challenge[:], c.GetChallenge())
	return q
}

// sign encodes report and statement.
func (b *billing) sign(q *asks) {
	b.f.t.Helper()
	var err error
	if q.Statement.Use == app.UseRelease {
		if q.raw == nil {
			if q.raw, err = q.Report.Encode(); err != nil {
				b.f.t.Fatal(err)
			}
		}
		if q.Attribute == nil {
			d := sha256.Sum256(q.raw)
			q.Attribute = []app.Attribute{{Name: "report", Value: hex.EncodeToString(d[:])}}
		}
	}
	if q.signed == nil {
		if q.signed, err = q.Statement.Sign(rand.Reader, b.subject); err != nil {
			b.f.t.Fatal(err)
		}
	}
}

// release asks for the key, and opens what comes.
func (b *billing) release(q *asks) ([]byte, error) {
	b.f.t.Helper()
	b.sign(q)
	var r appv1.ReleaseResponse
	if err := b.on.Call(b.f.ctx, appv1connect.ApplicationServiceReleaseProcedure, &appv1.ReleaseRequest{Host: q.host, Statement: q.signed, Report: q.raw}, &r); err != nil {
		return nil, err
	}
	kdf, aead := local.Suite()
	return hpke.Open(b.wrap, kdf, aead, local.Info(q.raw), r.GetSealed())
}

func (b *billing) identify(q *asks) (*appv1.IdentifyResponse, error) {
	b.f.t.Helper()
	b.sign(q)
	r := &appv1.IdentifyResponse{}
	return r, b.on.Call(b.f.ctx, appv1connect.ApplicationServiceIdentifyProcedure, &appv1.IdentifyRequest{Host: q.host, Statement: q.signed}, r)
}

// vouch has the members take roots for applications into the terms for hosts.
func (f *field) vouch(roots ...app.Root) error {
	f.t.Helper()
	object, err := app.FormatRoots(roots)
	if err != nil {
		f.t.Fatal(err)
	}
	if err := f.bring(admit.ObjectAppRoots, object); err != nil {
		return err
	}
	founding := f.objects[2:4]
	text, _ := policy.Shipped("demo")
	terms := admit.Terms{Domain: f.digest, Role: admit.RoleHost, Base: f.version(admit.TypeTerms, admit.RoleHost), Policy: keystead.Sum(text), Roots: keystead.Sum(f.objects[1]),
		References: []keystead.Digest{keystead.Sum(founding[0])}, CodeSets: []keystead.Digest{keystead.Sum(founding[1])}, Systems: []admit.Named{{Digest: keystead.Sum(object), Kind: admit.ObjectAppRoots}}}
	b, err := terms.Text()
	if err != nil {
		f.t.Fatal(err)
	}
	return f.decree(admit.TypeTerms, admit.RoleHost, b)
}

// bring has an object endorsed.
func (f *field) bring(kind string, content []byte) error {
	f.t.Helper()
	if _, err := f.client("").PutObject(f.ctx, content); err != nil {
		f.t.Fatal(err)
	}
	o := admit.Object{Domain: f.digest, Digest: keystead.Sum(content), Kind: kind, Base: f.version(admit.TypeObject, keystead.Sum(content).String())}
	b, err := o.Text()
	if err != nil {
		f.t.Fatal(err)
	}
	return f.decree(admit.TypeObject, o.Digest.String(), b)
}

// deny puts an application on the deny list, or takes it off.
func (f *field) deny(d keystead.Digest, lifted bool) {
	f.t.Helper()
	x := admit.Denial{Domain: f.digest, Subject: admit.DenyApp(d), Lifted: lifted, Because: "test"}
	x.Base = f.version(admit.TypeDenial, x.Subject)
	b, err := x.Text()
	if err != nil {
		f.t.Fatal(err)
	}
	if err := f.decree(admit.TypeDenial, x.Subject, b); err != nil {
		f.t.Fatal(err)
	}
}

// TestApplications gives a key that is for one service to an application of that service, by its
// host's word and its own certificate, and to nobody else: by each way in which the host's agent,
// the application or a thief of either's messages could ask.
func TestApplications(t *testing.T) {
	t.Parallel()
	f := newField(t, 3, "trust-disks=true")
	web, admitted := f.admitted("web")
	other, second := f.admitted("other")
	cl := f.client("")
	a := specimen.NewAuthority(t)
	entry := app.Root{Prefix: "billing", Least: local.Measured, Hosts: []string{"web"}, Users: []app.Users{{First: 33, Last: 34}}, Certificate: a.Root}
	b := newBilling(web, admitted.GetLease().GetVersion(), a, "billing")
	_, err := b.release(b.ask(app.UseRelease, "orders"))
	demand(t, "before terms name a root", err, keystead.ReasonAppCertForeign)

	if err := f.vouch(entry); err != nil {
		t.Fatal(err)
	}
	f.specifyAs(cl, "orders", &keyring.Service{Algorithm: keyring.AlgorithmEd25519, Use: keyring.UseRelease, Application: "billing"}, keyring.LevelMeasured)
	f.specifyAs(cl, "ledgers", &keyring.Service{Algorithm: keyring.AlgorithmSecret, Use: keyring.UseRelease, Application: "bookkeeping"}, keyring.LevelMeasured)
	f.specifyAs(cl, "inner", &keyring.Service{Algorithm: keyring.AlgorithmSecret, Use: keyring.UseDerive, Application: "*"}, keyring.LevelMeasured)
	f.specifyAs(cl, "launch", &keyring.Service{Algorithm: keyring.AlgorithmSecret, Use: keyring.UseRelease, Application: "billing"}, keyring.LevelLaunched)
	web.everywhere()
	secret, err := b.release(b.ask(app.UseRelease, "orders"))
	if err != nil || len(secret) != keyring.SecretSize {
		t.Fatalf("%d bytes: %v", len(secret), err)
	}
	k, err := cl.Key(f.ctx, "orders")
	if err != nil {
		t.Fatal(err)
	}
	if got := ed25519.NewKeyFromSeed(secret).Public().(ed25519.PublicKey); string(got) != string(k.GetVersions()[0].GetPublic()) {
		t.Errorf("the key's public half is %x, on the ledger stands %x", got, k.GetVersions()[0].GetPublic())
	}

	thief := newBilling(other, second.GetLease().GetVersion(), a, "billing")
	for what, x := range map[string]struct {
		change func(*asks)
		want   keystead.Reason
	}{
		"a statement that another host signed":   {func(q *asks) { q.signed = statementBy(t, q, thief.subject) }, keystead.ReasonReportForeign},
		"a statement of another domain":          {func(q *asks) { q.Domain[0]++ }, keystead.ReasonReportForeign},
		"a statement of another host":            {func(q *asks) { q.Host = "other" }, keystead.ReasonReportForeign},
		"a statement under another lease":        {func(q *asks) { q.Lease++ }, keystead.ReasonReportForeign},
		"a report of another boot":               {func(q *asks) { q.Report.Boot[0]++ }, keystead.ReasonReportForeign},
		"a report that the statement is not of":  {func(q *asks) { q.Attribute = []app.Attribute{{Name: "report", Value: "00"}} }, keystead.ReasonReportForeign},
		"a statement without a report":           {func(q *asks) { q.Attribute = []app.Attribute{} }, keystead.ReasonReportForeign},
		"a report to another challenge":          {func(q *asks) { q.Report.Challenge[0]++ }, keystead.ReasonReportReplayed},
		"an answer to a challenge of nobody":     {func(q *asks) { q.Statement.Challenge[0]++ }, keystead.ReasonReportReplayed},
		"a statement for another use":            {func(q *asks) { q.Use = app.UseIdentity; q.raw, _ = q.Report.Encode() }, keystead.ReasonApplicationMismatch},
		"a level below the root's":               {func(q *asks) { q.Level, q.Coverage, q.Program.Text = local.Peer, app.CoverageNone, keystead.Digest{} }, keystead.ReasonLevelLow},
		"text that was poked":                    {func(q *asks) { q.Program.Text[0]++ }, keystead.ReasonTextAltered},
		"a file that was altered":                {func(q *asks) { q.Program.File[0]++ }, keystead.ReasonAppAltered},
		"a library that no set has":              {func(q *asks) { q.Mappings = []app.Mapping{{Name: "libevil.so", File: keystead.Sum([]byte("evil"))}} }, keystead.ReasonMappingForeign},
		"a user that the root does not let":      {func(q *asks) { q.UID = 1000 }, keystead.ReasonApplicationMismatch},
		"a key for another service":              {func(q *asks) { q.Key = "ledgers" }, keystead.ReasonApplicationMismatch},
		"a key that nodes derive from":           {func(q *asks) { q.Key = "inner" }, keystead.ReasonRuleFailed},
		"a key for launched applications":        {func(q *asks) { q.Key = "launch" }, keystead.ReasonLevelLow},
		"a key that there is not":                {func(q *asks) { q.Key = "nothing" }, keystead.ReasonKeyUnknown},
		"another host's name on this connection": {func(q *asks) { q.host = "other" }, keystead.ReasonReportReplayed},
	} {
		q := b.ask(app.UseRelease, "orders")
		x.change(q)
		_, err := b.release(q)
		demand(t, what, err, x.want)
	}

	q := b.ask(app.UseRelease, "orders")
	if _, err := b.release(q); err != nil {
		t.Fatal(err)
	}
	_, err = b.release(q)
	demand(t, "the same statement again", err, keystead.ReasonReportReplayed)
	q = b.ask(app.UseRelease, "orders")
	b.sign(q)
	elsewhere := *b
	elsewhere.on = web.at("n2", f.contacts()["n2"])
	_, err = elsewhere.release(q)
	demand(t, "a statement to one node shown to another", err, keystead.ReasonReportReplayed)
	q = thief.ask(app.UseRelease, "orders")
	_, err = thief.release(q)
	demand(t, "a host that the root does not name", err, keystead.ReasonApplicationMismatch)

	f.identities(t, b)
	certificate, err := x509.ParseCertificate(b.note.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	for what, d := range map[string]keystead.Digest{"its certificate's key": keystead.Sum(certificate.RawSubjectPublicKeyInfo), "its program": b.program.File} {
		f.deny(d, false)
		_, err = b.release(b.ask(app.UseRelease, "orders"))
		demand(t, "an application of which was denied "+what, err, keystead.ReasonAppCertRevoked)
		f.deny(d, true)
		if _, err = b.release(b.ask(app.UseRelease, "orders")); err != nil {
			t.Errorf("after the denial of %s is lifted: %v", what, err)
		}
	}
}

// identities gives the application SVIDs.
func (f *field) identities(t *testing.T, b *billing) {
	t.Helper()
	own := specimen.NewKey(t)
	identity := func(key *ecdsa.PrivateKey, change func(*asks)) (*appv1.IdentifyResponse, error) {
		q := b.ask(app.UseIdentity, "")
		proven, err := q.ProveP256(rand.Reader, key)
		if err != nil {
			t.Fatal(err)
		}
		q.Keys = []app.Key{proven}
		change(q)
		return b.identify(q)
	}
	r, err := identity(own, func(*asks) {})
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(r.GetChain()[0])
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	for _, der := range r.GetBundle() {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		roots.AddCert(c)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
	if id := leaf.URIs[0].String(); id != r.GetId() || leaf.URIs[0].Path != "/app/billing" || !own.PublicKey.Equal(leaf.PublicKey) {
		t.Errorf("the SVID is for %s, and its key the application's: %v", id, own.PublicKey.Equal(leaf.PublicKey))
	}
	if leaf.NotAfter.After(time.Now().Add(10 * time.Minute)) {
		t.Errorf("the SVID outlasts the lease: %v", leaf.NotAfter)
	}
	_, err = identity(own, func(q *asks) { q.Keys[0].Proof = q.Keys[0].Proof[:len(q.Keys[0].Proof)-1] })
	demand(t, "a key that nobody proved", err, keystead.ReasonSignatureInvalid)
	_, err = identity(own, func(q *asks) { q.Keys = nil })
	demand(t, "no key", err, keystead.ReasonMalformed)
	_, err = identity(own, func(q *asks) {
		q.Note, q.Level, q.Coverage, q.Program.Text = nil, local.Peer, app.CoverageNone, keystead.Digest{}
	})
	demand(t, "a program that is not signed", err, keystead.ReasonAppUnsigned)
}

// statementBy signs a question's statement by another key, report and all.
func statementBy(t *testing.T, q *asks, by crypto.Signer) []byte {
	t.Helper()
	raw, err := q.Report.Encode()
	if err != nil {
		t.Fatal(err)
	}
	d := sha256.Sum256(raw)
	s := q.Statement
	s.Attribute = []app.Attribute{{Name: "report", Value: hex.EncodeToString(d[:])}}
	signed, err := s.Sign(rand.Reader, by)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// specifyAs has the members specify a key for a service, and waits for it.
func (f *field) specifyAs(cl *client.Client, name string, service *keyring.Service, level string) {
	f.t.Helper()
	s := keyring.Spec{Domain: f.digest, Name: name, Version: 1, Level: level, Service: service, Policy: []byte("keystead-policy/1\nname any\nminimum-assurance test\nrules none\n")}
	text, err := s.Text()
	if err != nil {
		f.t.Fatal(err)
	}
	signed, err := f.member.Sign(text)
	if err != nil {
		f.t.Fatal(err)
	}
	if _, err := cl.Specify(f.ctx, signed); err != nil {
		f.t.Fatal(err)
	}
	f.awaitKey(f.ctx, cl, name, 1)
}
