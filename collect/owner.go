package collect

import (
	"errors"

	"github.com/google/go-tpm/tpm2"
)

// nonceSize is that of sessions, in bytes.
const nonceSize = 16

// storageRoot is a storage key in the owner hierarchy, made from the TCG's template
// for ECC P-256 (TPM 2.0 Provisioning Guidance, 7.5.1): the same for one TPM until it
// is cleared.
type storageRoot struct {
	*tpm2.CreatePrimaryResponse
	public tpm2.TPMTPublic
	name   []byte // computed from public
}

// storageRoot makes the key. The caller flushes it.
func (l link) storageRoot() (*storageRoot, error) {
	rsp, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(l)
	if err != nil {
		return nil, l.ofOwner(err)
	}
	public, err := rsp.OutPublic.Contents()
	if err == nil {
		var name *tpm2.TPM2BName
		if name, err = tpm2.ObjectName(public); err == nil {
			return &storageRoot{rsp, *public, name.Buffer}, nil
		}
	}
	l.flush(rsp.ObjectHandle, &err)
	return nil, err
}

func (r *storageRoot) handle() tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: r.ObjectHandle, Name: r.Name, Auth: tpm2.PasswordAuth(nil)}
}

// salted makes a session's key one that only the holder of the storage key learns
// (Part 1, 19.6.8).
func (r *storageRoot) salted() tpm2.AuthOption { return tpm2.Salted(r.ObjectHandle, r.public) }

// ofOwner explains what a TPM says of the owner hierarchy.
func (l link) ofOwner(err error) error {
	switch {
	case errors.Is(err, tpm2.TPMRCBadAuth), errors.Is(err, tpm2.TPMRCAuthFail):
		return &Error{Found: "TPM " + l.tpm.path + ": the owner hierarchy has a password", Hint: "remove it with tpm2_changeauth -c owner -p OLD", Err: err}
	case errors.Is(err, tpm2.TPMRCHierarchy):
		return &Error{Found: "TPM " + l.tpm.path + ": the owner hierarchy is disabled", Hint: "enable it in the firmware's setup", Err: err}
	}
	return err
}
