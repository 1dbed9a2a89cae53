package collect

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
)

// BootPCRs returns the registers that firmware and boot loader fill before the
// kernel runs: 0 to 7. What is sealed to them opens after each boot of the same
// firmware with the same settings and loader.
func BootPCRs() []int { return []int{0, 1, 2, 3, 4, 5, 6, 7} }

// Seal encrypts a secret of 1 to MaxSecret bytes so that this TPM alone opens it,
// and only while the registers hold what they hold now. The blob is no secret. Bank
// is sha256 or sha384. That a blob opens does not say who sealed it: whoever can speak
// to the TPM can seal another secret in its place.
//
// The secret crosses the bus to the TPM encrypted to the TPM's storage key, so that
// who listens there does not learn it. Who answers there in the TPM's place does.
func (t *TPM) Seal(ctx context.Context, secret []byte, bank evidence.Bank, pcrs []int) (blob []byte, err error) {
	if len(secret) == 0 || len(secret) > MaxSecret {
		return nil, fmt.Errorf("a secret of %d bytes can not be sealed, it must have 1 to %d", len(secret), MaxSecret)
	}
	if len(pcrs) == 0 || !bank.Accepted() {
		return nil, fmt.Errorf("sealing wants registers of bank sha256 or sha384, not %v of %v", pcrs, bank)
	}
	if err := checkPCRs(pcrs...); err != nil {
		return nil, err
	}
	err = t.with(ctx, func(l link) error { blob, err = l.seal(secret, bank, pcrs); return err })
	return blob, err
}

// Unseal returns the secret of a blob by [TPM.Seal]. It refuses a blob of another
// TPM, or of this one before it was cleared (sealed-elsewhere); a blob that is not
// what was sealed (sealed-damaged, or a *keystead.FormatError); and registers that
// have changed since, each with its two values (sealed-state-changed).
func (t *TPM) Unseal(ctx context.Context, blob []byte) (secret []byte, err error) {
	s, err := parseSealed(blob)
	if err != nil {
		return nil, err
	}
	err = t.with(ctx, func(l link) error { secret, err = l.unseal(s); return err })
	return secret, err
}

func (l link) seal(secret []byte, bank evidence.Bank, pcrs []int) (blob []byte, err error) {
	if _, err := l.chooseBanks([]evidence.Bank{bank}); err != nil {
		return nil, err
	}
	s := &sealed{}
	if s.registers, err = l.readPCRs(bank, pcrs); err != nil {
		return nil, err
	}
	root, err := l.storageRoot()
	if err != nil {
		return nil, err
	}
	defer l.flush(root.ObjectHandle, &err)
	public, err := s.public()
	if err != nil {
		return nil, err
	}
	session, _, err := tpm2.HMACSession(l, tpm2.TPMAlgSHA256, nonceSize, root.salted(), tpm2.AESEncryption(128, tpm2.EncryptIn))
	if err != nil {
		return nil, err
	}
	defer l.flush(session.Handle(), &err)
	rsp, err := tpm2.Create{
		ParentHandle: root.handle(),
		InSensitive: tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{
			Data: tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: secret})}},
		InPublic: tpm2.New2B(public),
	}.Execute(l, session)
	if err != nil {
		return nil, err
	}
	made, err := rsp.OutPublic.Contents()
	if err != nil {
		return nil, err
	}
	unique, err := made.Unique.KeyedHash()
	if err != nil {
		return nil, err
	}
	s.parent, s.unique, s.private = root.name, unique.Buffer, rsp.OutPrivate.Buffer
	blob = s.encode()
	_, err = parseSealed(blob)
	return blob, err
}

func (l link) unseal(s *sealed) (secret []byte, err error) {
	if _, err := l.chooseBanks([]evidence.Bank{s.registers.Bank}); err != nil {
		return nil, err
	}
	root, err := l.storageRoot()
	if err != nil {
		return nil, err
	}
	defer l.flush(root.ObjectHandle, &err)
	if !bytes.Equal(root.name, s.parent) {
		return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonSealedElsewhere, Where: "storage key of TPM " + l.tpm.path,
			Want: hex.EncodeToString(s.parent), Got: hex.EncodeToString(root.name)})
	}
	public, err := s.public()
	if err != nil {
		return nil, err
	}
	object, err := tpm2.Load{ParentHandle: root.handle(), InPrivate: tpm2.TPM2BPrivate{Buffer: s.private}, InPublic: tpm2.New2B(public)}.Execute(l)
	if damaged(err) {
		return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonSealedDamaged, Where: "sealed blob",
			Want: "the object that this TPM sealed", Got: "an altered one"})
	}
	if err != nil {
		return nil, err
	}
	defer l.flush(object.ObjectHandle, &err)
	return l.open(s, root, object)
}

// open unseals a loaded object in a session that is encrypted to the storage key.
func (l link) open(s *sealed, root *storageRoot, object *tpm2.LoadResponse) (secret []byte, err error) {
	session, _, err := tpm2.PolicySession(l, tpm2.TPMAlgSHA256, nonceSize, root.salted(), tpm2.AESEncryption(128, tpm2.EncryptOut))
	if err != nil {
		return nil, err
	}
	defer l.flush(session.Handle(), &err)
	_, err = tpm2.PolicyPCR{PolicySession: session.Handle(), Pcrs: tpm2.TPMLPCRSelection{
		PCRSelections: []tpm2.TPMSPCRSelection{selection(s.registers.Bank, stated(s.registers))}}}.Execute(l)
	if err != nil {
		return nil, err
	}
	rsp, err := tpm2.Unseal{ItemHandle: tpm2.AuthHandle{Handle: object.ObjectHandle, Name: object.Name, Auth: session}}.Execute(l)
	if errors.Is(err, tpm2.TPMRCPolicyFail) || errors.Is(err, tpm2.TPMRCPCRChanged) {
		return nil, l.changedSince(s.registers)
	}
	if err != nil {
		return nil, err
	}
	return rsp.OutData.Buffer, nil
}

// changedSince names the registers that do not hold the sealed values.
func (l link) changedSince(was evidence.PCRs) error {
	now, err := l.readPCRs(was.Bank, stated(was))
	if err != nil {
		return err
	}
	var findings []keystead.Finding
	for i, v := range was.Value {
		if !bytes.Equal(v, now.Value[i]) {
			findings = append(findings, keystead.Finding{Reason: keystead.ReasonSealedStateChanged, Where: fmt.Sprintf("%v PCR %d", was.Bank, i),
				Want: hex.EncodeToString(v), Got: hex.EncodeToString(now.Value[i])})
		}
	}
	if findings == nil {
		return &Error{Found: "TPM " + l.tpm.path + ": registers changed while it opened a secret", Hint: "try again"}
	}
	return keystead.Deny(findings...)
}

// damaged reports whether the TPM says that an object is not what it made. Of an
// altered object the integrity is checked before anything else but the sizes.
func damaged(err error) bool {
	return errors.Is(err, tpm2.TPMRCIntegrity) || errors.Is(err, tpm2.TPMRCSize) || errors.Is(err, tpm2.TPMRCInsufficient)
}
