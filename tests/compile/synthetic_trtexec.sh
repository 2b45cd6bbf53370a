#!/bin/sh
# SYNTHETIC trtexec for tests: takes the flags that $SYNTHETIC_FLAGS lists, builds nothing, and writes files where it is told to.
version=${SYNTHETIC_VERSION:-v8502}
echo "&&&& RUNNING TensorRT.trtexec [TensorRT $version] # $0 $*"
engine= onnx= layers= cache=
for flag in "$@"; do
  name=${flag%%=*}; name=${name#--}; value=${flag#*=}
  case " $SYNTHETIC_FLAGS " in *" $name "*) ;; *) echo "[E] Unknown option: $flag"; exit 1 ;; esac
  case $name in
    help) exit 0 ;;
    onnx) onnx=$value ;;
    saveEngine) engine=$value ;;
    exportLayerInfo) layers=$value ;;
    timingCacheFile) cache=$value ;;
  esac
done
[ -f "$onnx" ] || { echo "[E] no file $onnx"; exit 1; }
[ -z "${SYNTHETIC_FAILS:-}" ] || { echo "[E] Could not find any implementation"; echo "&&&& FAILED TensorRT.trtexec"; exit 1; }
echo "synthetic engine of $onnx" > "$engine"
echo '{"Layers": []}' > "$layers"
echo "synthetic timings" >> "$cache"
echo "&&&& PASSED TensorRT.trtexec [TensorRT $version]"
