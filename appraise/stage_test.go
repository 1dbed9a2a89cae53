package appraise_test

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	gotpm "github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/collect"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/tpm2"
	"github.com/keystead/keystead/internal/recording"
	"github.com/keystead/keystead/internal/swtpm"
	"github.com/keystead/keystead/policy"
	"github.com/keystead/keystead/refval"
)

// question is what the verifier of the tests asked.
var question = evidence.Binding{Purpose: evidence.PurposeVerify, Nonce: []byte("a nonce of the verifier, 32 bytes")}

// recorded is the committed recording with its reference values.
type recorded struct {
	*recording.Recording
	set   *refval.Set
	codes *refval.CodeSet
}

var record = sync.OnceValue(func() recorded {
	r, err := recording.Load(recording.Committed())
	if err != nil {
		panic(err)
	}
	set, err := refval.Parse(r.Reference)
	if err != nil {
		panic(err)
	}
	codes, err := refval.ParseCodeSet(r.CodeSet)
	if err != nil {
		panic(err)
	}
	return recorded{r, set, codes}
})

// stage holds what one software TPM said while the recorded boot was replayed into it.
type stage struct {
	ca    *swtpm.CA
	key   appraise.AcceptedKey     // activated
	taken map[string]*evidence.TPM // live quotes that answer question, by what was quoted

	unrestrictedKey []byte                            // public area of a key that signs anything
	sign            func(message []byte) (sig []byte) // by that key
}

// live starts the software TPM when the first test asks; fuzzing and benchmarks need none.
var live = sync.OnceValues(func() (s *stage, err error) {
	dir, err := os.MkdirTemp("", "ca-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	s = &stage{taken: map[string]*evidence.TPM{}}
	if s.ca, err = swtpm.NewCA(dir); err != nil {
		return nil, err
	}
	ctx := context.Background()
	process, err := s.ca.Start(ctx)
	if err != nil {
		return nil, err
	}
	stop = process.Stop
	tpm, err := collect.OpenTPM(process.Socket)
	if err != nil {
		return nil, err
	}
	return s, errors.Join(s.activate(ctx, tpm), s.play(ctx, tpm), s.unrestricted(process.Socket), tpm.Close())
})

// stop ends the software TPM if there is one.
var stop = func() error { return nil }

func TestMain(m *testing.M) {
	code := m.Run()
	if err := stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func onStage(t testing.TB) *stage {
	t.Helper()
	s, err := live()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// play replays phase after phase and quotes.
func (s *stage) play(ctx context.Context, tpm *collect.TPM) error {
	for n, phase := range record().Phases {
		err := record().Replay(n, func(pcr int, d map[evidence.Bank][]byte) error { return tpm.Extend(ctx, pcr, d) })
		if err != nil {
			return err
		}
		quotes := map[string]collect.QuoteRequest{phase.Name: {}}
		if n == 0 {
			quotes["sha384 alone"] = collect.QuoteRequest{Banks: []evidence.Bank{evidence.SHA384}}
			quotes["sha384 first"] = collect.QuoteRequest{Banks: []evidence.Bank{evidence.SHA384, evidence.SHA256}}
			quotes["without IMA's register"] = collect.QuoteRequest{PCRs: []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}}
			quotes["without register 4"] = collect.QuoteRequest{PCRs: []int{0, 1, 2, 3, 5, 6, 7, 8, 9, 10}}
		}
		for name, request := range quotes {
			request.QualifyingData = question.QualifyingData()
			if s.taken[name], err = tpm.Quote(ctx, request); err != nil {
				return err
			}
		}
	}
	return nil
}

// activate binds the TPM's attestation key to its certificate, as a verifier does.
func (s *stage) activate(ctx context.Context, tpm *collect.TPM) error {
	ek, err := tpm.EK(ctx)
	if err != nil {
		return err
	}
	ak, err := tpm.AK(ctx, collect.AKECC)
	if err != nil {
		return err
	}
	keys := evidence.TPMKeys{AKPublic: ak, EKPublic: ek.Public, EKCertificate: ek.Chain}
	asked, err := appraise.Challenge(rand.Reader, keys, tpm2.Roots{Test: []*x509.Certificate{s.ca.Root}}, time.Now())
	if err != nil {
		return err
	}
	answer, err := tpm.Activate(ctx, collect.AKECC, asked.Credential.Blob, asked.Credential.Secret)
	if err != nil {
		return err
	}
	s.key, err = asked.Accept(answer, time.Now())
	return err
}

// unrestricted makes a key in the same TPM that signs whatever it is given.
func (s *stage) unrestricted(socket string) error {
	tpm, err := linuxudstpm.Open(socket)
	if err != nil {
		return err
	}
	template := attestationTemplate()
	template.ObjectAttributes.Restricted = false
	key, err := gotpm.CreatePrimary{PrimaryHandle: gotpm.TPMRHEndorsement, InPublic: gotpm.New2B(template)}.Execute(tpm)
	if err != nil {
		return err
	}
	s.unrestrictedKey = key.OutPublic.Bytes()
	s.sign = func(message []byte) []byte {
		hashed, err := gotpm.Hash{Data: gotpm.TPM2BMaxBuffer{Buffer: message}, HashAlg: gotpm.TPMAlgSHA256, Hierarchy: gotpm.TPMRHNull}.Execute(tpm)
		if err != nil {
			panic(err)
		}
		signed, err := gotpm.Sign{KeyHandle: gotpm.AuthHandle{Handle: key.ObjectHandle, Name: key.Name, Auth: gotpm.PasswordAuth(nil)}, Digest: hashed.OutHash,
			InScheme:   gotpm.TPMTSigScheme{Scheme: gotpm.TPMAlgNull},
			Validation: gotpm.TPMTTKHashCheck{Tag: gotpm.TPMSTHashCheck, Hierarchy: gotpm.TPMRHNull}}.Execute(tpm)
		if err != nil {
			panic(err)
		}
		return gotpm.Marshal(signed.Signature)
	}
	return nil
}

// input is evidence of a phase and everything that the demo's verifier has; a quote
// of another name is of the first phase.
func (s *stage) input(t testing.TB, quote string) (appraise.Input, evidence.Parts) {
	t.Helper()
	phase := record().Phases[0]
	for _, p := range record().Phases {
		if p.Name == quote {
			phase = p
		}
	}
	parts := evidence.Parts{Binding: question, TPM: s.taken[quote], EventLog: record().EventLog, IMALog: phase.IMALog,
		Packages: &evidence.PackageList{Format: evidence.FormatDpkgStatus, Data: record().Status}}
	return appraise.Input{Bundle: bundle(t, parts), Expect: question, Key: s.key, EKRoots: tpm2.Roots{Test: []*x509.Certificate{s.ca.Root}},
		References: []*refval.Set{record().set}, CodeSets: []*refval.CodeSet{record().codes}, Policy: shipped(t, "demo"), Time: time.Now()}, parts
}

// edited is [stage.input] of the first phase with parts that the host changed.
func (s *stage) edited(t testing.TB, edit func(*evidence.Parts)) appraise.Input {
	t.Helper()
	in, parts := s.input(t, "packaged")
	tpm := *parts.TPM
	list := *parts.Packages
	parts.TPM, parts.Packages = &tpm, &list
	edit(&parts)
	in.Bundle = bundle(t, parts)
	return in
}

func bundle(t testing.TB, p evidence.Parts) evidence.Bundle {
	t.Helper()
	b, err := evidence.New(p)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func shipped(t testing.TB, name string) *policy.Policy {
	t.Helper()
	text, ok := policy.Shipped(name)
	if !ok {
		t.Fatalf("no policy %s is shipped", name)
	}
	return compile(t, string(text))
}

func compile(t testing.TB, text string) *policy.Policy {
	t.Helper()
	p, err := policy.Compile([]byte(text), appraise.Vocabulary())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// demand fails the test unless the verdict's findings are of these reasons, all of
// them and in this order, each with what was wanted, found and where. It returns them.
func demand(t testing.TB, what string, in appraise.Input, reasons ...keystead.Reason) []keystead.Finding {
	t.Helper()
	v := appraise.Appraise(in)
	var got []keystead.Reason
	for _, f := range v.Findings() {
		got = append(got, f.Reason)
		if f.Want == "" || f.Got == "" || f.Where == "" {
			t.Errorf("%s: %+v does not say what was wanted, found and where", what, f)
		}
	}
	if !slices.Equal(got, reasons) {
		t.Errorf("%s: want %v, got %v: %v", what, reasons, got, v.Findings())
	}
	if allowed := len(reasons) == 0; v.Allowed() != allowed || (v.Err() == nil) != allowed {
		t.Errorf("%s: allowed is %t with error %v", what, v.Allowed(), v.Err())
	}
	return v.Findings()
}

// first returns the findings' first, or none.
func first(f []keystead.Finding) keystead.Finding {
	if len(f) == 0 {
		return keystead.Finding{}
	}
	return f[0]
}
