package collect

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-tpm/tpm2"

	"github.com/keystead/keystead/evidence"
)

func selection(bank evidence.Bank, pcrs []int) tpm2.TPMSPCRSelection {
	bits := make([]byte, evidence.NumPCRs/8)
	for _, i := range pcrs {
		bits[i/8] |= 1 << (i % 8)
	}
	return tpm2.TPMSPCRSelection{Hash: tpm2.TPMIAlgHash(bank), PCRSelect: bits}
}

// Banks returns the banks that are active in the TPM.
func (t *TPM) Banks(ctx context.Context) (banks []evidence.Bank, err error) {
	err = t.with(ctx, func(l link) error { banks, err = l.banks(); return err })
	return banks, err
}

func (l link) banks() ([]evidence.Bank, error) {
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapPCRs, PropertyCount: 1}.Execute(l)
	if err != nil {
		return nil, err
	}
	assigned, err := rsp.CapabilityData.Data.AssignedPCR()
	if err != nil {
		return nil, err
	}
	var out []evidence.Bank
	for _, s := range assigned.PCRSelections {
		if slices.ContainsFunc(s.PCRSelect, func(b byte) bool { return b != 0 }) {
			out = append(out, evidence.Bank(s.Hash))
		}
	}
	return out, nil
}

// chooseBanks returns the wanted banks if all are active, or with none wanted the
// active ones that verifiers accept.
func (l link) chooseBanks(want []evidence.Bank) ([]evidence.Bank, error) {
	active, err := l.banks()
	if err != nil {
		return nil, err
	}
	if len(want) == 0 {
		want = slices.DeleteFunc(slices.Clone(active), func(b evidence.Bank) bool { return !b.Accepted() })
		if len(want) == 0 {
			return nil, inactive(l.tpm.path, "sha256", active)
		}
	}
	var chosen []evidence.Bank
	for _, b := range want {
		if !slices.Contains(active, b) {
			return nil, inactive(l.tpm.path, b.String(), active)
		}
		if !slices.Contains(chosen, b) {
			chosen = append(chosen, b)
		}
	}
	return chosen, nil
}

func inactive(path, bank string, active []evidence.Bank) error {
	var names []string
	for _, b := range active {
		names = append(names, b.String())
	}
	return &Error{Found: fmt.Sprintf("TPM %s: PCR bank %s is not active (active: %s)", path, bank, strings.Join(names, ", ")),
		Hint: "activate it in the firmware's setup, or as root with tpm2_pcrallocate " + bank + ":all and a reboot"}
}

// ReadPCRs returns the values of registers of one bank, as the TPM states them
// without a signature.
func (t *TPM) ReadPCRs(ctx context.Context, bank evidence.Bank, pcrs []int) (values evidence.PCRs, err error) {
	if err := checkPCRs(pcrs...); err != nil {
		return values, err
	}
	err = t.with(ctx, func(l link) error {
		if _, err := l.chooseBanks([]evidence.Bank{bank}); err != nil {
			return err
		}
		values, err = l.readPCRs(bank, pcrs)
		return err
	})
	return values, err
}

// readPCRs asks until all are read: a TPM returns eight values at a time at most.
func (l link) readPCRs(bank evidence.Bank, pcrs []int) (evidence.PCRs, error) {
	out := evidence.PCRs{Bank: bank}
	left := slices.Clone(pcrs)
	for len(left) > 0 {
		want := tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{selection(bank, left)}}
		rsp, err := tpm2.PCRRead{PCRSelectionIn: want}.Execute(l)
		if err != nil {
			return out, err
		}
		digests := rsp.PCRValues.Digests
		for _, s := range rsp.PCRSelectionOut.PCRSelections {
			for i := range evidence.NumPCRs {
				if i/8 < len(s.PCRSelect) && s.PCRSelect[i/8]&(1<<(i%8)) != 0 && len(digests) > 0 {
					out.Value[i], digests = digests[0].Buffer, digests[1:]
				}
			}
		}
		n := len(left)
		left = slices.DeleteFunc(left, func(i int) bool { return out.Value[i] != nil })
		if len(left) == n {
			return out, fmt.Errorf("the TPM gives no value for PCR %v of bank %v", left, bank)
		}
	}
	return out, nil
}

// Extend extends a register in the given banks, to replay a recorded boot into a
// software TPM. A TPM of the machine is never extended.
func (t *TPM) Extend(ctx context.Context, pcr int, digests map[evidence.Bank][]byte) error {
	if !t.Socket() {
		return &Error{Found: "TPM " + t.path + " is this machine's own", Hint: "replay recordings into a software TPM's socket"}
	}
	if err := checkPCRs(pcr); err != nil {
		return err
	}
	cmd := tpm2.PCRExtend{PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)}}
	for bank, digest := range digests {
		if len(digest) != bank.Size() {
			return fmt.Errorf("a digest of bank %v has %d bytes, not %d", bank, bank.Size(), len(digest))
		}
		cmd.Digests.Digests = append(cmd.Digests.Digests, tpm2.TPMTHA{HashAlg: tpm2.TPMIAlgHash(bank), Digest: digest})
	}
	return t.with(ctx, func(l link) error { _, err := cmd.Execute(l); return err })
}

func checkPCRs(pcrs ...int) error {
	for _, i := range pcrs {
		if i < 0 || i >= evidence.NumPCRs {
			return fmt.Errorf("PCR %d is none of 0 to %d", i, evidence.NumPCRs-1)
		}
	}
	return nil
}
