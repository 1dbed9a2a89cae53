package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/google/go-tpm-tools/proto/attest"
	"github.com/google/go-tpm-tools/server"
	"github.com/google/go-tpm/legacy/tpm2"
	"google.golang.org/protobuf/proto"

	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/eventlog"
	ours "github.com/keystead/keystead/evidence/tpm2"
)

// quoteRows judges a real machine's quote and UEFI log, by this project, by the bare
// signature check, and by go-tpm-tools.
func quoteRows() ([]row, error) {
	a, err := realAttestation()
	if err != nil {
		return nil, err
	}
	n, stated, err := bankOf(a, evidence.SHA256)
	if err != nil {
		return nil, err
	}
	quote := a.Quotes[n]
	events := 0
	whole := func() {
		ak := check(ours.ParsePublic(a.AkPub))
		q := check(ours.VerifyQuote(ak, quote.Quote, quote.RawSig))
		covered := check(q.CheckPCRs([]evidence.PCRs{stated}))
		log := check(eventlog.Open(a.EventLog, covered))
		log.Boot()
		events = len(log.Events()) + log.Uncovered()
	}
	bare, err := bareVerification(a.AkPub, quote.Quote, quote.RawSig)
	if err != nil {
		return nil, err
	}
	// The peer gets the same quote alone, so that it judges the same bank.
	same := &attest.Attestation{AkPub: a.AkPub, Quotes: a.Quotes[n : n+1], EventLog: a.EventLog}
	pub, err := tpm2.DecodePublic(a.AkPub)
	if err != nil {
		return nil, err
	}
	ak, err := pub.Key()
	if err != nil {
		return nil, err
	}
	opts := server.VerifyOpts{Nonce: nil, TrustedAKs: []crypto.PublicKey{ak}}
	peer := func() { check(server.VerifyAttestation(same, opts)) }
	t, tPeer, ratio := pair(peer, whole)
	tWhole, tBare, over := pair(whole, bare)
	return []row{
		{"quote + UEFI log: times faster than go-tpm-tools", fmt.Sprintf("%.1f x (%v, %d events)", ratio, tPeer.Round(100), events), ">= 3 x", fmt.Sprintf("VerifyAttestation %v", t.Round(100)), ratio >= 3},
		{"quote + UEFI log: over the bare signature check", fmt.Sprintf("%.2f x (%v)", over, tWhole.Round(100)), "<= 2 x", fmt.Sprintf("crypto library alone %v", tBare.Round(100)), over <= 2},
	}, nil
}

// check stops the measurement on an error: a figure of a failed run is none.
func check[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func realAttestation() (*attest.Attestation, error) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/google/go-tpm-tools").Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	raw, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "internal/test/attestations/gce-cos-85-no-nonce.pb"))
	if err != nil {
		return nil, err
	}
	a := &attest.Attestation{}
	return a, proto.Unmarshal(raw, a)
}

func bankOf(a *attest.Attestation, bank evidence.Bank) (int, evidence.PCRs, error) {
	for n, q := range a.Quotes {
		if evidence.Bank(q.Pcrs.Hash) == bank {
			p := evidence.PCRs{Bank: bank}
			for i, v := range q.Pcrs.Pcrs {
				p.Value[i] = v
			}
			return n, p, nil
		}
	}
	return 0, evidence.PCRs{}, errors.New("the attestation has no quote over that bank")
}

// bareVerification returns the one public-key operation that no verifier can spare: the
// key, the digest and the signature are as the crypto library wants them.
func bareVerification(akPub, attested, sig []byte) (func(), error) {
	ak, err := ours.ParsePublic(akPub)
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(attested)
	body := sig[4:] // TPMT_SIGNATURE: scheme, hash, then the scheme's own fields
	switch key := ak.Key().(type) {
	case *rsa.PublicKey:
		n := binary.BigEndian.Uint16(body)
		return func() {
			if err := rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], body[2:2+n]); err != nil {
				panic(err)
			}
		}, nil
	case *ecdsa.PublicKey:
		n := binary.BigEndian.Uint16(body)
		der, err := asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(body[2 : 2+n]), new(big.Int).SetBytes(body[4+n:])})
		if err != nil {
			return nil, err
		}
		return func() {
			if !ecdsa.VerifyASN1(key, digest[:], der) {
				panic("signature")
			}
		}, nil
	}
	return nil, errors.New("unknown key")
}
