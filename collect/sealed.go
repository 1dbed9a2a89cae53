package collect

import (
	"encoding/binary"

	"github.com/google/go-tpm/tpm2"

	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/cursor"
)

// Bounds of sealing, in bytes. MaxSecret is what every TPM takes in one piece
// (MAX_SYM_DATA); MaxSealed is more than the largest sealed blob has.
const (
	MaxSecret  = 128
	MaxSealed  = 2 << 10
	maxPrivate = 512 // of TPM2B_PRIVATE around MaxSecret
)

// sealedKind opens a sealed blob (docs/spec/sealed.md).
const sealedKind = "keystead-sealed/1\n"

// sealed is a sealed blob, parsed. The public area of the TPM's object is made of
// registers and unique, so that the TPM's own check of the object covers them.
type sealed struct {
	registers evidence.PCRs // values at the time of sealing; nil where not bound
	parent    []byte        // name of the storage key that the object lies under
	unique    []byte        // of the object
	private   []byte        // TPM2B_PRIVATE, without its size
}

func (s *sealed) encode() []byte {
	b := []byte(sealedKind)
	b = binary.BigEndian.AppendUint16(b, uint16(s.registers.Bank))
	b = append(b, selection(s.registers.Bank, stated(s.registers)).PCRSelect...)
	for _, v := range s.registers.Value {
		b = append(b, v...)
	}
	b = cursor.AppendSized16(b, s.parent)
	b = append(b, s.unique...)
	return cursor.AppendSized16(b, s.private)
}

// parseSealed reads a sealed blob. It fails with a *keystead.FormatError.
func parseSealed(b []byte) (*sealed, error) {
	c := cursor.New("sealed", binary.BigEndian, b)
	if len(b) > MaxSealed {
		c.Fail("whole", "is %d bytes long, at most %d are accepted", len(b), MaxSealed)
	}
	if kind := c.Bytes(len(sealedKind), "kind"); string(kind) != sealedKind {
		c.Fail("kind", "is %.40q, want %q", kind, sealedKind)
	}
	s := &sealed{registers: evidence.PCRs{Bank: evidence.Bank(c.U16("bank"))}}
	if !s.registers.Bank.Accepted() {
		c.Fail("bank", "is %v, want sha256 or sha384", s.registers.Bank)
	}
	bits := c.Bytes(evidence.NumPCRs/8, "registers")
	for i := range s.registers.Value {
		if bits != nil && bits[i/8]&(1<<(i%8)) != 0 {
			s.registers.Value[i] = c.Bytes(s.registers.Bank.Size(), "register value")
		}
	}
	if c.Err() == nil && len(stated(s.registers)) == 0 {
		c.Fail("registers", "names no register")
	}
	s.parent = c.Sized16(2+64, "parent")
	s.unique = c.Bytes(evidence.SHA256.Size(), "unique")
	s.private = c.Sized16(maxPrivate, "private")
	c.End()
	return s, c.Err()
}

// stated returns the registers that have a value, ascending.
func stated(p evidence.PCRs) (pcrs []int) {
	for i, v := range p.Value {
		if v != nil {
			pcrs = append(pcrs, i)
		}
	}
	return pcrs
}

// public returns the public area of the object: data that only a session with
// TPM2_PolicyPCR over the registers' values opens, and that no TPM gives away.
func (s *sealed) public() (tpm2.TPMTPublic, error) {
	policy, err := policyOf(s.registers)
	return tpm2.TPMTPublic{
		Type:             tpm2.TPMAlgKeyedHash,
		NameAlg:          tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, AdminWithPolicy: true, NoDA: true},
		AuthPolicy:       tpm2.TPM2BDigest{Buffer: policy},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgKeyedHash, &tpm2.TPMSKeyedHashParms{
			Scheme: tpm2.TPMTKeyedHashScheme{Scheme: tpm2.TPMAlgNull}}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgKeyedHash, &tpm2.TPM2BDigest{Buffer: s.unique}),
	}, err
}

// policyOf returns the digest of a policy that is TPM2_PolicyPCR over these values
// (Part 3, 23.7).
func policyOf(p evidence.PCRs) ([]byte, error) {
	calc, err := tpm2.NewPolicyCalculator(tpm2.TPMAlgSHA256)
	if err != nil {
		return nil, err
	}
	h := evidence.SHA256.Hash().New()
	for _, v := range p.Value {
		h.Write(v)
	}
	step := tpm2.PolicyPCR{PcrDigest: tpm2.TPM2BDigest{Buffer: h.Sum(nil)}, Pcrs: tpm2.TPMLPCRSelection{
		PCRSelections: []tpm2.TPMSPCRSelection{selection(p.Bank, stated(p))}}}
	if err := step.Update(calc); err != nil {
		return nil, err
	}
	return calc.Hash().Digest, nil
}
