package ota

import (
	"errors"
	"os/exec"
	"slices"
	"syscall"

	"homeward/ota/boot"
	"homeward/ota/trust"
)

// Codes of this package: stable, shown to the operator and told to the fleet. Those of the packages below it (rel. tuf. fetch. trial.)
// pass through.
const (
	CodeVerify    = boot.CodeVerify  // no blob gives the part that was signed; of a trial: the slot is not what its name says
	CodeSelfCheck = "slot.selfcheck" // the new program says, or shows, that it does not run here
	CodeSpace     = "slot.space"     // no room for what has to be fetched and built, and a tenth
	CodeDisk      = "slot.disk"      // the disk fails, or gives back what it was not given

	CodeNoLauncher = "slot.no_launcher" // the agent was not started by the launcher: nothing is installed
	CodeNotStarted = "slot.not_started" // a trial was armed and something else was started: to be tried again
	CodeFallback   = "slot.fallback"    // what runs is not what the record says: the launcher fell back

	CodeCounter      = "rel.counter"       // a manifest lies in another release's place
	CodeWrongProduct = "rel.wrong_product" // rollouts of another product
	CodeBackend      = "rel.backend"       // a part that nothing here can install
	CodeQuarantined  = "rel.quarantined"   // it was tried and failed; a newer order or rollout, or an operator, frees it
	CodeOrderGateway = "order.gateway"     // an order for another gateway in this one's place
	CodeOrderSerial  = "move.seq"          // an order older than one that was seen

	CodeClock        = trust.CodeTime        // there is a window, and nobody knows what time it is; later
	CodeNotReady     = "update.power"        // not enough power for an update; later
	CodePause        = "trial.pause"         // a pause before another trial
	CodeBaseline     = "trial.baseline"      // the agent cannot say how it is doing: nothing is armed
	CodePower        = boot.CodePower        // power cuts ended the trial: to be tried again
	CodeInconclusive = boot.CodeInconclusive // the link is down for the old release, too: to be tried again
	CodeFailed       = "update.failed"       // anything else; again after a pause
)

// CodeOf is the stable code of any error of this package or of those below it; [CodeFailed] if it has none.
func CodeOf(err error) string {
	if errors.Is(err, ErrBudget) { // on whatever it was spent: nobody is to blame
		return ErrBudget.code
	}
	var coded interface{ Code() string }
	if errors.As(err, &coded) {
		return coded.Code()
	}
	return CodeFailed
}

// killed says that a program was killed from outside, as the kernel does where there is no memory left: it did not end by itself.
func killed(err error) bool {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return false
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// passing says that an error of starting a program is the machine's and not the program's.
func passing(err error) bool {
	return slices.ContainsFunc([]error{syscall.EAGAIN, syscall.ENOMEM, syscall.EMFILE, syscall.ENFILE, syscall.EIO, syscall.ETXTBSY,
		syscall.EINTR, syscall.ENOSPC, syscall.EROFS}, func(errno error) bool { return errors.Is(err, errno) })
}
