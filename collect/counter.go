package collect

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// CounterIndex is the NV index of the counter that [TPM.Increment] keeps: of the
// range that owners use (0x01800000 to 0x01BFFFFF), the one that ends in "KS". One
// TPM has one, so of two nodes that share a TPM each puts the other's records out of
// date.
const CounterIndex = 0x01804B53

// counterAttributes are those of the index: a counter that lives in NV memory and
// not in RAM, without a password.
var counterAttributes = tpm2.TPMANV{NT: tpm2.TPMNTCounter, OwnerWrite: true, OwnerRead: true, AuthWrite: true, AuthRead: true, NoDA: true}

// Counter returns the value of the TPM's counter, which only grows, whatever happens
// to the disk; false if it was never incremented. A TPM in which it was removed and
// made anew counts on above all values that it had (Part 1, 37.2.4.2).
func (t *TPM) Counter(ctx context.Context) (value uint64, ok bool, err error) {
	err = t.with(ctx, func(l link) error {
		name, err := l.counterName()
		if err == nil && name != nil {
			value, ok, err = l.counter(name)
		}
		return err
	})
	return value, ok, err
}

// Increment adds one to the counter and returns its value, for good. The first
// call makes the counter.
func (t *TPM) Increment(ctx context.Context) (value uint64, err error) {
	err = t.with(ctx, func(l link) error { value, err = l.increment(); return err })
	return value, err
}

func (l link) increment() (uint64, error) {
	name, err := l.counterName()
	if err == nil && name == nil {
		if err = l.defineCounter(); err == nil {
			name, err = l.counterName()
		}
	}
	if err != nil {
		return 0, err
	}
	if name == nil {
		return 0, fmt.Errorf("NV index 0x%08x is not there after it was defined", CounterIndex)
	}
	_, err = tpm2.NVIncrement{AuthHandle: counterHandle(name), NVIndex: tpm2.NamedHandle{Handle: CounterIndex, Name: *name}}.Execute(l)
	if err != nil {
		return 0, err
	}
	if name, err = l.counterName(); err != nil { // the first increment changes it
		return 0, err
	}
	value, ok, err := l.counter(name)
	if err == nil && !ok {
		err = fmt.Errorf("NV index 0x%08x has no value after an increment", CounterIndex)
	}
	return value, err
}

func counterHandle(name *tpm2.TPM2BName) tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: CounterIndex, Name: *name, Auth: tpm2.PasswordAuth(nil)}
}

// counterName returns the name of the index, or nil if there is none. An index that
// is no such counter is refused.
func (l link) counterName() (*tpm2.TPM2BName, error) {
	rsp, err := tpm2.NVReadPublic{NVIndex: tpm2.TPMHandle(CounterIndex)}.Execute(l)
	if errors.Is(err, tpm2.TPMRCHandle) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	public, err := rsp.NVPublic.Contents()
	if err != nil {
		return nil, err
	}
	public.Attributes.Written = false
	if public.Attributes != counterAttributes {
		return nil, &Error{Found: fmt.Sprintf("TPM %s: NV index 0x%08x is no counter of this program's", l.tpm.path, CounterIndex),
			Hint: fmt.Sprintf("if nothing else uses it, remove it with tpm2_nvundefine -C o 0x%08x", CounterIndex)}
	}
	return &rsp.NVName, nil
}

func (l link) defineCounter() error {
	_, err := tpm2.NVDefineSpace{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{NVIndex: CounterIndex, NameAlg: tpm2.TPMAlgSHA256, Attributes: counterAttributes, DataSize: 8}),
	}.Execute(l)
	return l.ofOwner(err)
}

func (l link) counter(name *tpm2.TPM2BName) (uint64, bool, error) {
	rsp, err := tpm2.NVRead{AuthHandle: counterHandle(name), NVIndex: tpm2.NamedHandle{Handle: CounterIndex, Name: *name}, Size: 8}.Execute(l)
	if errors.Is(err, tpm2.TPMRCNVUninitialized) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	if len(rsp.Data.Buffer) != 8 {
		return 0, false, fmt.Errorf("NV index 0x%08x gave %d bytes, not 8", CounterIndex, len(rsp.Data.Buffer))
	}
	return binary.BigEndian.Uint64(rsp.Data.Buffer), true, nil
}
