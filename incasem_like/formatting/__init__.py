"""Operations on whole volumes: import and export of sections, equalisation, masks."""
