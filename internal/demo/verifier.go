package demo

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/collect"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/tpm2"
	"github.com/keystead/keystead/internal/recording"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/policy"
	"github.com/keystead/keystead/refval"
	"github.com/keystead/keystead/refval/deb"
)

// vendorKeys are the keys by which Debian signs its repositories.
const vendorKeys = "/usr/share/keyrings/debian-archive-keyring.gpg"

// verifier holds what it trusts, and nothing of the host's.
type verifier struct {
	input     appraise.Input // all but bundle, expected binding and time
	issuer    string         // of the endorsement certificate
	algorithm string         // of the attestation key
	knows     []string       // for the narration
}

func newVerifier(root *x509.Certificate, rec *recording.Recording) (*verifier, error) {
	v := &verifier{}
	v.input.EKRoots = tpm2.Roots{Test: []*x509.Certificate{root}}
	v.knows = append(v.knows, fmt.Sprintf("TPM root:        %q, configured as one of software TPMs", root.Subject.CommonName))
	return v, errors.Join(v.reference(rec), v.signed(rec))
}

// reference takes the recording's reference set, after checking that the indexes it
// was built from are the vendor's.
func (v *verifier) reference(rec *recording.Recording) error {
	set, err := refval.Parse(rec.Reference)
	if err != nil {
		return err
	}
	raw, err := os.ReadFile(vendorKeys)
	if err != nil {
		return fmt.Errorf("the vendor's keys: %w (Debian's package debian-archive-keyring has them)", err)
	}
	keys, err := deb.ParseKeyring(raw)
	if err != nil {
		return err
	}
	var suites []string
	for _, repo := range set.Header().Repositories {
		for _, text := range rec.Releases {
			release, err := deb.VerifyRelease(text, keys, rec.Recorded)
			if err != nil {
				return err
			}
			if release.Digest == repo.Release {
				suites = append(suites, release.Codename)
			}
		}
	}
	if n := len(set.Header().Repositories); len(suites) != n {
		return fmt.Errorf("the recording holds %d of the %d signed indexes that its reference set names", len(suites), n)
	}
	slices.Sort(suites)
	v.input.References = []*refval.Set{set}
	v.knows = append(v.knows, fmt.Sprintf("reference set:   %d files of %d packages, from indexes that Debian's keys signed: %s", set.Len(), len(set.Header().Packages), strings.Join(suites, ", ")))
	return nil
}

// signed makes a member's key, which signs the demo's policy and code set, and opens
// both as anyone would.
func (v *verifier) signed(rec *recording.Recording) error {
	member, err := key.NewMember(rand.Reader, "demo-member")
	if err != nil {
		return err
	}
	text, ok := policy.Shipped("demo")
	if !ok {
		return errors.New("no policy demo is shipped")
	}
	note, err := member.Sign(text)
	if err != nil {
		return err
	}
	if v.input.Policy, err = policy.Open(note, appraise.Vocabulary(), member.Public()); err != nil {
		return err
	}
	if note, err = member.Sign([]byte(rec.CodeSet)); err != nil {
		return err
	}
	codes, err := refval.OpenCodeSet(note, member.Public())
	if err != nil {
		return err
	}
	v.input.CodeSets = []*refval.CodeSet{codes}
	boots := len(slices.Collect(codes.Boots()))
	v.knows = append(v.knows,
		fmt.Sprintf("code set:        %q, signed by %s: %d boot entry, %d loader", codes.Name(), member.Public().Name(), boots, codes.Len()),
		fmt.Sprintf("policy:          %q, signed by %s: %d rules; it admits assurance \"test\" in so many words", v.input.Policy.Name(), member.Public().Name(), len(v.input.Policy.Rules())))
	return nil
}

// activate binds the host's attestation key to its TPM.
func (v *verifier) activate(ctx context.Context, t *collect.TPM) error {
	ek, err := t.EK(ctx)
	if err != nil {
		return err
	}
	ak, err := t.AK(ctx, collect.AKECC)
	if err != nil {
		return err
	}
	keys := evidence.TPMKeys{AKPublic: ak, EKPublic: ek.Public, EKCertificate: ek.Chain}
	asked, err := appraise.Challenge(rand.Reader, keys, v.input.EKRoots, time.Now())
	if err != nil {
		return err
	}
	answer, err := t.Activate(ctx, collect.AKECC, asked.Credential.Blob, asked.Credential.Secret)
	if err != nil {
		return err
	}
	if v.input.Key, err = asked.Accept(answer, time.Now()); err != nil {
		return err
	}
	return v.describe(v.input.Key, ak)
}

// describe remembers of the accepted key what the narration tells.
func (v *verifier) describe(k appraise.AcceptedKey, akPublic []byte) error {
	ak, err := tpm2.ParsePublic(akPublic)
	if err != nil {
		return err
	}
	cert, err := x509.ParseCertificate(k.EKCertificate[0])
	if err != nil {
		return err
	}
	v.issuer, v.algorithm = cert.Issuer.String(), ak.Algorithm()
	return nil
}

// ask makes a nonce.
func (v *verifier) ask() []byte { return fresh() }

// judge appraises a bundle as the answer to a nonce.
func (v *verifier) judge(b evidence.Bundle, nonce []byte, each func(appraise.File)) appraise.Verdict {
	in := v.input
	in.Bundle, in.Time = b, time.Now()
	in.Expect = evidence.Binding{Purpose: evidence.PurposeVerify, Nonce: nonce}
	return appraise.Explain(in, each)
}
