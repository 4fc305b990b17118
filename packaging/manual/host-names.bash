# Names of the hosts in the host map, read here and now: no drive, no interpreter and no watcher is asked.
_nvmefence_map() {
  local index word=/etc/nvmefence/hosts.toml settings=${NVMEFENCE_CONFIG:-/etc/nvmefence/nvmefence.toml} line
  for ((index = 1; index < ${#COMP_WORDS[@]} - 1; index++)); do
    [[ ${COMP_WORDS[index]} == --config && -z ${NVMEFENCE_CONFIG-} ]] && settings=${COMP_WORDS[index + 1]}
  done
  if [[ -f $settings && -r $settings ]]; then
    while IFS= read -r line || [[ -n $line ]]; do
      [[ $line =~ ^[[:space:]]*hosts[[:space:]]*=[[:space:]]*[\"\']([^\"\']+)[\"\'] ]] && word=${BASH_REMATCH[1]}
    done <"$settings"
  fi
  for ((index = 1; index < ${#COMP_WORDS[@]} - 1; index++)); do
    [[ ${COMP_WORDS[index]} == --hosts || ${COMP_WORDS[index]} == --hosts-file ]] && word=${COMP_WORDS[index + 1]}
  done
  printf '%s\n' "${NVMEFENCE_HOSTS:-$word}"
}

# $1: what is there of the word
_nvmefence_host_names() {
  local map line inside="" name='[[:space:]]*("([^"]+)"|'"'([^']+)'"'|([A-Za-z0-9_-]+))[[:space:]]*'
  map=$(_nvmefence_map)
  [[ -f $map && -r $map ]] || return 0
  while IFS= read -r line || [[ -n $line ]]; do
    if [[ $line =~ ^[[:space:]]*\[[[:space:]]*hosts[[:space:]]*\.$name[].] ]] ||
      [[ -n $inside && $line =~ ^$name[=.] ]] || [[ $line =~ ^[[:space:]]*hosts[[:space:]]*\.$name[=.] ]]; then
      line=${BASH_REMATCH[2]}${BASH_REMATCH[3]}${BASH_REMATCH[4]}
      [[ $line == "$1"* ]] && printf '%s\n' "$line"
    elif [[ $line =~ ^[[:space:]]*\[[[:space:]]*hosts[[:space:]]*\] ]]; then
      inside=1
    elif [[ $line =~ ^[[:space:]]*\[ ]]; then
      inside=""
    fi
  done <"$map"
}

# Calls $1 with --option=value as two words, for bash makes three of them.
_nvmefence_without_equals() {
  local index words=() at=$COMP_CWORD
  for index in "${!COMP_WORDS[@]}"; do
    if [[ ${COMP_WORDS[index]} != = ]]; then
      words+=("${COMP_WORDS[index]}")
    elif ((index == COMP_CWORD)); then
      words+=("")
    elif ((index < COMP_CWORD)); then
      ((at--))
    fi
  done
  local COMP_WORDS=("${words[@]}") COMP_CWORD=$at
  "$1"
}
